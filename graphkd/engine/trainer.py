"""The one training loop: every objective, teacher and student alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from graphkd.data import Dataset
from graphkd.engine.interrupts import Interrupts
from graphkd.engine.resume import Checkpoints, parse_every
from graphkd.engine.seeding import derive
from graphkd.engine.session import Session
from graphkd.engine.threads import torch_threads
from graphkd.engine.watching import Fit, Watcher
from graphkd.errors import check
from graphkd.model import Network
from graphkd.objective import WeightedSum

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Trainer:
    """SGD in the protocol of the CRD/HKD benchmark, by default for 240 epochs on CIFAR-100 (methods: arXiv 1910.10699).

    The student's and the objective's parameters are trained by one optimizer. Devices and precision are Lightning
    Fabric's; the objective runs outside autocast in float32.
    """

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset(
        {"accelerator", "threads", "eval_batch_size", "checkpoint_every"}
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
        eval_every: int = 1,
        eval_batch_size: int = 256,
        accelerator: Literal["auto", "cpu", "cuda"] = "auto",
        threads: int = 2,
        checkpoint_every: str = "300 seconds",
    ) -> None:
        """A trainer.

        Args:
            epochs: Passes over the training data.
            batch_size: Samples a step; an epoch's last, smaller batch is used too.
            lr: Learning rate at the start.
            momentum: SGD's momentum.
            nesterov: Whether the momentum is Nesterov's.
            weight_decay: L2 penalty, on the objective's parameters too.
            decay_at: After which shares of the epochs the learning rate falls (150, 180 and 210 of 240).
            decay: By what it is then multiplied.
            eval_every: Epochs between evaluations; the last epoch is always evaluated.
            eval_batch_size: Samples at once in evaluation; changes memory and speed only.
            accelerator: Kind of device; auto takes CUDA where there is some.
            threads: Threads of torch on the CPU; results are bit-equal at the same number only.
            checkpoint_every: How often a run leaves a checkpoint: "N steps" or "N seconds".

        Raises:
            UserError: An option is out of its range.
        """
        counts = {"epochs": epochs, "batch_size": batch_size, "eval_every": eval_every,
                  "eval_batch_size": eval_batch_size, "threads": threads}  # fmt: skip
        for name, count in counts.items():
            check(count >= 1, f"trainer: {name} is {count}, but must be at least 1")
        check(lr > 0, f"trainer: lr is {lr}, but must be positive")
        for name, value in {"momentum": momentum, "weight_decay": weight_decay, "decay": decay}.items():
            check(value >= 0, f"trainer: {name} is {value}, but must be at least 0")
        check(not nesterov or momentum > 0, "trainer: nesterov=true needs a momentum above 0")
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
        self.eval_every = eval_every
        self.eval_batch_size = eval_batch_size
        self.accelerator = accelerator
        self.threads = threads
        self.checkpoint_every = checkpoint_every

    def fabric(self) -> Fabric:
        """A Fabric for this trainer's device.

        Raises:
            UserError: The machine does not have it.
        """
        from lightning_fabric import Fabric  # takes seconds to import

        cuda = torch.cuda.is_available()
        check(cuda or self.accelerator != "cuda", "trainer: accelerator is cuda, but torch sees no CUDA device here")
        accelerator = self.accelerator if self.accelerator != "auto" else "cuda" if cuda else "cpu"
        return Fabric(accelerator=accelerator, devices=1)

    def lr_at(self, epoch: int, lr: float | None = None, decay_epochs: Sequence[int] | None = None) -> float:
        """The learning rate of an epoch, counted from 0; a stage brings its own start and the epochs where it falls."""
        falls = self.decay_epochs if decay_epochs is None else decay_epochs
        return (self.lr if lr is None else lr) * self.decay ** sum(epoch >= start for start in falls)

    def optimizer(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """The optimizer of some parameter groups."""
        return torch.optim.SGD(
            groups, lr=lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay
        )

    def fit(
        self, student: Network, objective: WeightedSum, dataset: Dataset, *,
        teacher: Network | None = None, seed: int = 0, watcher: Watcher | None = None, name: str = "student",
        checkpoints: Checkpoints | None = None,
    ) -> Fit:  # fmt: skip
        """Trains a student (or a teacher: then the objective is cross-entropy) in place.

        Args:
            student: The network to train.
            objective: What it learns from.
            dataset: What it learns on; its training indices are those of the objective's banks.
            teacher: The trained teacher, where the objective needs one. It is frozen.
            seed: Fixes the order of the samples, their augmentation and the objective's draws.
            watcher: Is told how it goes.
            name: How the watcher calls this training.
            checkpoints: Where it goes on from, if there is a checkpoint of this very training, and leaves its own.

        Returns:
            The figures of every epoch. The networks are left in eval mode on the training device.

        Raises:
            UserError: The objective needs a teacher and there is none, or the device is missing.
        """
        check(teacher is not None or not objective.needs_teacher, "the objective needs a teacher, and there is none")
        fabric = self.fabric()
        gpus = [fabric.device] if fabric.device.type == "cuda" else []
        with torch_threads(self.threads), torch.random.fork_rng(gpus), Interrupts() as interrupts:
            torch.manual_seed(derive(seed, "dropout"))
            session = Session(
                self, fabric, student, objective, dataset, teacher, seed, watcher or Watcher(), name, checkpoints,
                interrupts,
            )  # fmt: skip
            return session.run()

