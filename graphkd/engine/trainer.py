"""Trainer of students and teachers, for every objective."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from graphkd.data import Dataset
from graphkd.data.views import check_views
from graphkd.engine.callback import Callback, History
from graphkd.engine.checkpoint import Checkpoints
from graphkd.engine.environment import cluster
from graphkd.engine.feed import Feed
from graphkd.engine.loop import TrainingLoop
from graphkd.engine.options import TrainerOptions
from graphkd.engine.together import train_together
from graphkd.errors import UserError, check, one_line
from graphkd.model import Network
from graphkd.model.base import black_image
from graphkd.objective import WeightedSum

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_MOST_PROCESSES_A_CORE = 4
_CPU_INFO = Path("/proc/cpuinfo")
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


class Trainer(TrainerOptions):
    """Train students and teachers, whatever the objective.

    Devices, processes and precision are Lightning Fabric's; the objective runs outside autocast in float32. Its
    options are those of `TrainerOptions`.
    """

    def check_machine(self) -> Literal["cpu", "cuda"]:
        """Check that this machine has what the trainer needs; return the kind of device.

        Raises:
            UserError: It lacks the devices, or they do not support the precision.
        """
        cuda = torch.cuda.is_available()
        check(cuda or self.accelerator != "cuda", "trainer: accelerator is cuda, but torch sees no CUDA device here")
        if self.accelerator == "cuda" or (cuda and self.accelerator == "auto"):
            count = torch.cuda.device_count()
            check(self.devices <= count, f"trainer: devices is {self.devices}, but there are {count} CUDA devices")
            return "cuda"
        halved = 16 in (self.precision, self.teacher_precision)
        check(not halved, "trainer: precision is 16, which needs CUDA; on a CPU use bf16")
        cores = os.cpu_count() or 1
        check(
            self.devices <= _MOST_PROCESSES_A_CORE * cores,
            f"trainer: devices is {self.devices}, but this machine has {cores} CPU cores to share between them",
        )
        return "cpu"

    def notes(self) -> list[str]:
        """Return what the user should know of the options on this machine, a line each."""
        halved = "bf16" in (self.precision, self.teacher_precision)
        if not halved or self.check_machine() != "cpu" or has_bf16():
            return []
        return [
            "trainer: this CPU has no bf16 instructions, so precision bf16 is several times slower than 32 here; "
            "choose trainer.precision=32"
        ]

    def check_batches(self, network: Network, dataset: Dataset, objective: WeightedSum, where: str = "trainer") -> None:
        """Check that the data have the objective's views, and that the network can train on the smallest batch.

        Batch norm cannot normalise a single sample whose maps have one pixel.

        Args:
            network: The network to train; it is not changed.
            dataset: The training data.
            objective: What it is trained by.
            where: Name of the trainer in messages.

        Raises:
            UserError: They do not, or it cannot.
        """
        check_views(objective.views, dataset.info)
        samples = len(dataset.train_labels)
        last = samples % self.batch_size or min(self.batch_size, samples)
        synchronised = self.processes > 1 and self.check_machine() == "cuda"
        normalises = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
        if last >= 2 * self.processes or objective.fewest_views > 1 or synchronised or not normalises:
            return
        network = copy.deepcopy(network).train()
        image = black_image(network, dataset.in_channels, dataset.image_size)
        devices = [image.device] if image.is_cuda else []
        try:
            with torch.no_grad(), torch.random.fork_rng(devices):
                network(image)
        except ValueError as error:
            raise UserError(
                f"{where}: batch_size {self.batch_size} cuts the {samples} training samples into batches of which one "
                f"has a single sample on a device, which the network cannot train on ({one_line(error)}); choose "
                "another batch_size"
            ) from error

    def fabric(self) -> Fabric:
        """Return a Fabric for this trainer's devices; with several, each process makes and launches its own.

        Raises:
            UserError: As in `check_machine`.
        """
        from lightning_fabric import Fabric  # slow to import
        from lightning_fabric.strategies.ddp import DDPStrategy

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        accelerator = self.check_machine()
        # A stage, or a batch too small for its graph, leaves parameters without gradients.
        ddp = DDPStrategy(find_unused_parameters=True, timeout=timedelta(minutes=5))
        return Fabric(
            accelerator=accelerator, devices=self.devices, num_nodes=self.nodes,
            strategy="auto" if self.processes == 1 else ddp,
            precision={32: "32-true", "bf16": "bf16-mixed", 16: "16-mixed"}[self.precision],  # type: ignore[arg-type]
            plugins=cluster(),
        )  # fmt: skip

    def fit(
        self, student: Network, objective: WeightedSum, dataset: Dataset, *,
        teacher: Network | None = None, seed: int = 0, callback: Callback | None = None, name: str = "student",
        checkpoints: Checkpoints | None = None,
    ) -> History:  # fmt: skip
        """Train a student (or a teacher, with cross-entropy as the objective) in place.

        Args:
            student: The network to train.
            objective: The loss and its modules.
            dataset: The training data; their indices are those of the objective's banks.
            teacher: The trained teacher, if the objective needs one. It is frozen.
            seed: Fixes the order of the samples, their augmentation and the objective's draws.
            callback: Follows the training.
            name: Name of this training for the callback.
            checkpoints: Where this training writes its checkpoints, and resumes from the latest one.

        Returns:
            The results of all epochs. The networks are left in eval mode on the training device.

        Raises:
            UserError: The objective needs a teacher and there is none, the device is missing, or as in
                `check_batches`.
        """
        check(teacher is not None or not objective.needs_teacher, "the objective needs a teacher, but none is given")
        self.check_batches(student, dataset, objective)
        fabric = self.fabric()
        fabric.launch()
        feed = Feed(self, fabric, dataset, teacher, seed)
        loop = TrainingLoop(
            self, fabric, student, objective, dataset, teacher=teacher, seed=seed, callback=callback, name=name,
            checkpoints=checkpoints,
        )  # fmt: skip
        outcomes: list[History | Exception] = []
        train_together([loop], feed, lambda _, outcome: outcomes.append(outcome))
        (outcome,) = outcomes
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def has_bf16() -> bool:
    """Return whether the CPU computes in bf16, as far as Linux tells."""
    try:
        return not _BF16_FLAGS.isdisjoint(_CPU_INFO.read_text().split())
    except OSError:
        return True


def checked_trainer(options: Mapping[str, Any], where: str) -> Trainer:
    """Return a trainer; errors name the node of the config that its options are from.

    Args:
        options: The constructor's arguments.
        where: The node.

    Raises:
        UserError: As in `TrainerOptions`.
    """
    try:
        return Trainer(**options)
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('trainer: ')}") from error
