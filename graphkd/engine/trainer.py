"""The one training loop: every objective, teacher and student alike."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from graphkd.data import Dataset
from graphkd.engine.callback import Callback, History
from graphkd.engine.convolutions import sound_convolutions
from graphkd.engine.group import environment
from graphkd.engine.interrupts import Interrupts
from graphkd.engine.loop import TrainingLoop
from graphkd.engine.matmul import MatmulPrecision, matmul_precision
from graphkd.engine.resume import Checkpoints, parse_every
from graphkd.engine.threads import torch_threads
from graphkd.errors import UserError, check, one_line
from graphkd.model import Network
from graphkd.model.base import black_image
from graphkd.objective import WeightedSum

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_MOST = 10**18
"""What is counted with more overflows somewhere."""
_MOST_THREADS = 1024
_MOST_PROCESSES_A_CORE = 4


class Trainer:
    """The training loop's options; by default the protocol of the CRD/HKD benchmark (methods: arXiv 1910.10699).

    The student's and the objective's parameters are trained by one optimizer. Devices, processes and precision are
    Lightning Fabric's; the objective runs outside autocast in float32.
    """

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset(
        {"accelerator", "devices", "nodes", "strategy", "threads", "eval_batch_size", "checkpoint_every"}
    )

    def __init__(
        self,
        epochs: int = 240,
        batch_size: int = 64,
        lr: float = 0.05,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 5e-4,
        decay_at: Sequence[float] = (0.625, 0.75, 0.875),
        decay: float = 0.1,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        schedule: Literal["steps", "cosine"] = "steps",
        accumulate: int = 1,
        clip_norm: float | None = None,
        ema: float | None = None,
        precision: Literal[32, "bf16", 16] = 32,
        teacher_precision: Literal[32, "bf16", 16] | None = None,
        matmul_precision: MatmulPrecision = "highest",
        channels_last: bool = False,
        compile: bool = False,
        non_finite: Literal["stop", "skip"] = "stop",
        eval_every: int = 1,
        eval_batch_size: int = 256,
        accelerator: Literal["auto", "cpu", "cuda"] = "auto",
        devices: int = 1,
        nodes: int = 1,
        strategy: Literal["auto", "ddp"] = "auto",
        threads: int = 2,
        checkpoint_every: str = "300 seconds",
    ) -> None:
        """A trainer.

        Args:
            epochs: Passes over the training data.
            batch_size: Samples a batch, over all devices; an epoch's last, smaller batch is used too.
            lr: Learning rate at the start.
            momentum: SGD's momentum, or AdamW's first beta.
            nesterov: Whether SGD's momentum is Nesterov's.
            weight_decay: L2 penalty (AdamW: decoupled), on the objective's parameters too.
            decay_at: After which shares of the epochs the learning rate falls (150, 180 and 210 of 240).
            decay: By what it is then multiplied.
            optimizer: SGD or AdamW.
            schedule: `steps` (`decay_at`), or half a `cosine` down to 0 over the epochs.
            accumulate: Batches whose gradients one step averages.
            clip_norm: Largest norm of a step's gradient; None for any.
            ema: Decay of an exponential moving average of the student, which is then what is evaluated and saved.
            precision: Of the student's forward and backward: exact float32, or mixed with bfloat16 or float16.
            teacher_precision: Of the teacher; None for the student's.
            matmul_precision: Of products of float32 matrices, such as the objective's: `highest` is exact float32; at
                `high` and `medium` torch may round the factors to TF32 or bfloat16 where that is faster.
            channels_last: Whether the networks hold their maps channels last: the same result, rounded otherwise.
            compile: Whether `torch.compile` compiles the networks, anew in each process: nothing that another process
                compiled, or left half-written, is used.
            non_finite: What to do about a loss that is NaN or infinite: `stop` the run, or `skip` the step.
            eval_every: Epochs between evaluations; the last epoch is always evaluated.
            eval_batch_size: Samples at once in evaluation; changes memory and speed only.
            accelerator: Kind of device; auto takes CUDA where there is some.
            devices: Processes on each machine, each with a device of its own.
            nodes: Machines.
            strategy: How several processes train: `ddp`, which `auto` takes where there are several.
            threads: Threads of torch on the CPU; results are bit-equal at the same number only.
            checkpoint_every: How often a run leaves a checkpoint: "N steps" or "N seconds".

        Raises:
            UserError: An option is out of its range.
        """
        counts = {
            "epochs": epochs, "batch_size": batch_size, "accumulate": accumulate, "eval_every": eval_every,
            "eval_batch_size": eval_batch_size, "devices": devices, "nodes": nodes, "threads": threads,
        }  # fmt: skip
        for name, count in counts.items():
            check(count >= 1, f"trainer: {name} is {count}, but must be at least 1")
            check(count <= _MOST, f"trainer: {name} is above {_MOST}")
        check(threads <= _MOST_THREADS, f"trainer: threads is {threads}, but must be at most {_MOST_THREADS}")
        check(lr > 0, f"trainer: lr is {lr}, but must be positive")
        for name, value in {"momentum": momentum, "weight_decay": weight_decay, "decay": decay}.items():
            check(value >= 0, f"trainer: {name} is {value}, but must be at least 0")
        check(not nesterov or momentum > 0, "trainer: nesterov=true needs a momentum above 0")
        check(optimizer == "sgd" or momentum < 1, f"trainer: momentum is {momentum}, but AdamW's must be below 1")
        check(clip_norm is None or clip_norm > 0, f"trainer: clip_norm is {clip_norm}, but must be positive or null")
        check(ema is None or 0 < ema < 1, f"trainer: ema is {ema}, but must be between 0 and 1, or null")
        check(
            batch_size >= devices * nodes,
            f"trainer: batch_size is {batch_size}, but must be at least 1 for each of {devices * nodes} devices",
        )
        check(
            all(0 < share < 1 for share in decay_at),
            f"trainer: decay_at is {list(decay_at)}, but each must be a share of the epochs, between 0 and 1",
        )
        parse_every(checkpoint_every)
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self.decay_epochs = [round(share * epochs) for share in decay_at]
        self.decay = decay
        self.optimizer_name = optimizer
        self.schedule = schedule
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.ema = ema
        self.precision = precision
        self.teacher_precision = precision if teacher_precision is None else teacher_precision
        self.matmul_precision = matmul_precision
        self.channels_last = channels_last
        self.compile = compile
        self.non_finite = non_finite
        self.eval_every = eval_every
        self.eval_batch_size = eval_batch_size
        self.accelerator = accelerator
        self.devices = devices
        self.nodes = nodes
        self.strategy = strategy
        self.threads = threads
        self.checkpoint_every = checkpoint_every

    def check_machine(self) -> Literal["cpu", "cuda"]:
        """Checks that this machine has what the trainer needs; returns the kind of device.

        Raises:
            UserError: It lacks the devices, or the precision is not theirs.
        """
        cuda = torch.cuda.is_available()
        check(cuda or self.accelerator != "cuda", "trainer: accelerator is cuda, but torch sees no CUDA device here")
        if self.accelerator == "cuda" or (cuda and self.accelerator == "auto"):
            count = torch.cuda.device_count()
            check(self.devices <= count, f"trainer: devices is {self.devices}, but there are {count} CUDA devices")
            return "cuda"
        halved = 16 in (self.precision, self.teacher_precision)
        check(not halved, "trainer: precision is 16, which needs CUDA; on a CPU take bf16")
        cores = os.cpu_count() or 1
        check(
            self.devices <= _MOST_PROCESSES_A_CORE * cores,
            f"trainer: devices is {self.devices}, but this machine has {cores} CPU cores to share between them",
        )
        return "cpu"

    def check_batches(self, network: Network, dataset: Dataset, views: int = 1, where: str = "trainer") -> None:
        """Checks that the network trains on the smallest batch that the data are cut into.

        Batch normalisation has nothing to normalise where a batch of one sample comes down to maps of one pixel.

        Args:
            network: The network to train; it stays as it is.
            dataset: What it is to learn on.
            views: How many views of each sample it sees at once.
            where: What messages call the trainer.

        Raises:
            UserError: It does not.
        """
        samples = len(dataset.train_labels)
        last = samples % self.batch_size or min(self.batch_size, samples)
        synchronised = self.processes > 1 and self.check_machine() == "cuda"
        normalises = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
        if last >= 2 * self.processes or views > 1 or synchronised or not normalises:
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
        """A Fabric for this trainer's devices; in a run on several, each of its processes makes one and launches it.

        Raises:
            UserError: As in `check_machine`.
        """
        from lightning_fabric import Fabric  # takes seconds to import
        from lightning_fabric.strategies.ddp import DDPStrategy

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        accelerator = self.check_machine()
        # A stage, or a batch too small for its graph, leaves parameters without gradient.
        ddp = DDPStrategy(find_unused_parameters=True, timeout=timedelta(minutes=5))
        return Fabric(
            accelerator=accelerator, devices=self.devices, num_nodes=self.nodes,
            strategy="auto" if self.processes == 1 else ddp,
            precision={32: "32-true", "bf16": "bf16-mixed", 16: "16-mixed"}[self.precision],  # type: ignore[arg-type]
            plugins=environment(),
        )  # fmt: skip

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return self.devices * self.nodes

    def lr_at(
        self, epoch: int, epochs: int | None = None, lr: float | None = None, falls: Sequence[int] | None = None
    ) -> float:
        """The learning rate of an epoch, counted from 0.

        Args:
            epoch: Which.
            epochs: Of how many; the trainer's own by default, as the others.
            lr: The rate at the start.
            falls: After which epochs it falls.
        """
        start = self.lr if lr is None else lr
        if self.schedule == "cosine":
            return start * 0.5 * (1 + math.cos(math.pi * epoch / (self.epochs if epochs is None else epochs)))
        return start * self.decay ** sum(epoch >= fall for fall in (self.decay_epochs if falls is None else falls))

    def optimizer(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """The optimizer of some parameter groups, in one kernel where the device has it."""
        # A fused step takes float16's scale off the gradients itself, too late for clipping them.
        scaled = self.precision == 16 and self.clip_norm is not None
        fused = True if groups[0]["params"][0].is_cuda and not scaled else None
        if self.optimizer_name == "adamw":
            return torch.optim.AdamW(
                groups, lr=lr, betas=(self.momentum, 0.999), weight_decay=self.weight_decay, fused=fused
            )
        return torch.optim.SGD(
            groups, lr=lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay, fused=fused
        )

    def average(self, student: Network) -> AveragedModel | None:
        """The moving average of the student's weights and statistics, where one is asked for."""
        if self.ema is None:
            return None
        update = get_ema_multi_avg_fn(self.ema)  # type: ignore[no-untyped-call]
        return AveragedModel(student, multi_avg_fn=update, use_buffers=True)

    def teacher_autocast(self, device: torch.device) -> torch.autocast:
        """The precision in which the teacher runs."""
        dtype = {32: torch.float32, "bf16": torch.bfloat16, 16: torch.float16}[self.teacher_precision]
        return torch.autocast(device.type, dtype, enabled=self.teacher_precision != 32)

    def fit(
        self, student: Network, objective: WeightedSum, dataset: Dataset, *,
        teacher: Network | None = None, seed: int = 0, callback: Callback | None = None, name: str = "student",
        checkpoints: Checkpoints | None = None,
    ) -> History:  # fmt: skip
        """Trains a student (or a teacher: then the objective is cross-entropy) in place.

        Args:
            student: The network to train.
            objective: What it learns from.
            dataset: What it learns on; its training indices are those of the objective's banks.
            teacher: The trained teacher, where the objective needs one. It is frozen.
            seed: Fixes the order of the samples, their augmentation and the objective's draws.
            callback: Is told how it goes.
            name: How the callback calls this training.
            checkpoints: Where it goes on from, if there is a checkpoint of this very training, and leaves its own.

        Returns:
            The figures of every epoch. The networks are left in eval mode on the training device.

        Raises:
            UserError: The objective needs a teacher and there is none, the device is missing, or as in
                `check_batches`.
        """
        check(teacher is not None or not objective.needs_teacher, "the objective needs a teacher, and there is none")
        self.check_batches(student, dataset, objective.views)
        fabric = self.fabric()
        fabric.launch()
        gpus = [fabric.device] if fabric.device.type == "cuda" else []
        turned = (student, objective) if self.channels_last or self.compile else ()
        with (
            torch_threads(self.threads), matmul_precision(self.matmul_precision), torch.random.fork_rng(gpus),
            sound_convolutions(*turned), Interrupts() as interrupts,
        ):  # fmt: skip
            session = TrainingLoop(
                self, fabric, student, objective, dataset, teacher, seed, callback or Callback(), name, checkpoints,
                interrupts,
            )  # fmt: skip
            return session.run()


def checked_trainer(options: Mapping[str, Any], where: str) -> Trainer:
    """A trainer whose mistakes are told of a node of the config.

    Args:
        options: The constructor's.
        where: The node.

    Raises:
        UserError: An option is out of its range.
    """
    try:
        return Trainer(**options)
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('trainer: ')}") from error
