"""The one training loop: every objective, teacher and student alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from graphkd.batch import DistillationBatch, Progress
from graphkd.data import Batch, Dataset
from graphkd.engine import memory
from graphkd.engine.evaluate import Evaluation, evaluate
from graphkd.engine.seeding import derive, generator
from graphkd.engine.threads import torch_threads
from graphkd.errors import check
from graphkd.model import Network
from graphkd.objective import Losses, WeightedSum

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        epoch: Counted from 1.
        lr: Learning rate in this epoch.
        total: Mean loss over the epoch's samples.
        terms: Mean "raw" and "weighted" loss of each term, over the samples of the batches that had it.
        train_top1: Accuracy on the augmented training batches, in percent.
        val: Figures on the validation split, where there is one.
        test: Figures on the test split.
        seconds: Time of the epoch's training, without evaluation.
    """

    epoch: int
    lr: float
    total: float
    terms: dict[str, dict[str, float]]
    train_top1: float
    val: Evaluation | None
    test: Evaluation | None
    seconds: float


@dataclass
class Fit:
    """A finished training.

    Attributes:
        epochs: What every epoch came to.
        steps: Optimizer steps taken.
        seconds_per_step: Training time, without evaluation, by step.
        peak_memory_mib: See `graphkd.engine.memory`.
    """

    epochs: list[Epoch] = field(default_factory=list)
    steps: int = 0
    seconds_per_step: float = 0.0
    peak_memory_mib: float = 0.0


class Watcher:
    """Is told how a training goes; this one does nothing with it."""

    def note(self, message: str) -> None:
        """Something that the user should know, in one line."""

    def start(self, name: str, epochs: int, steps: int) -> None:
        """A training of `epochs` epochs with `steps` steps each begins."""

    def step(self) -> None:
        """A step was taken."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch ended."""


class Trainer:
    """SGD in the protocol of the CRD/HKD benchmark, by default for 240 epochs on CIFAR-100 (methods: arXiv 1910.10699).

    The student's and the objective's parameters are trained by one optimizer. Devices and precision are Lightning
    Fabric's; the objective runs outside autocast in float32.
    """

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"accelerator", "threads", "eval_batch_size"})

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

    def lr_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.lr * self.decay ** sum(epoch >= start for start in self.decay_epochs)

    def fit(
        self, student: Network, objective: WeightedSum, dataset: Dataset, *,
        teacher: Network | None = None, seed: int = 0, watcher: Watcher | None = None, name: str = "student",
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

        Returns:
            The figures of every epoch. The networks are left in eval mode on the training device.

        Raises:
            UserError: The objective needs a teacher and there is none, or the device is missing.
        """
        check(teacher is not None or not objective.needs_teacher, "the objective needs a teacher, and there is none")
        watcher = watcher or Watcher()
        with torch_threads(self.threads):
            session = _Session(self, self.fabric(), student, objective, dataset, teacher, seed, watcher)
            watcher.start(name, self.epochs, dataset.num_train_batches(self.batch_size))
            memory.reset_peak(session.device)
            for epoch in range(self.epochs):
                session.run_epoch(epoch)
            student.eval()
            return session.result()


class _Session:
    """One training while it runs."""

    def __init__(
        self, trainer: Trainer, fabric: Fabric, student: Network, objective: WeightedSum,
        dataset: Dataset, teacher: Network | None, seed: int, watcher: Watcher,
    ) -> None:  # fmt: skip
        self.trainer, self.dataset, self.seed, self.watcher = trainer, dataset, seed, watcher
        self.device = device = fabric.device
        self.fabric = fabric
        self.student, self.objective = student, objective
        self.teacher = None if teacher is None else _frozen(teacher).to(device)
        objective.train()
        objective.prepare(device, lambda name: generator(seed, name, device=device))
        parameters = [p for p in (*student.parameters(), *objective.parameters()) if p.requires_grad]
        optimizer = torch.optim.SGD(
            parameters, lr=trainer.lr, momentum=trainer.momentum,
            nesterov=trainer.nesterov, weight_decay=trainer.weight_decay,
        )  # fmt: skip
        # Only the student is wrapped: under mixed precision Fabric would cast the objective's inputs.
        self.wrapped, self.optimizer = fabric.setup(student, optimizer)
        self.fit = Fit()
        self.seconds = 0.0

    def run_epoch(self, epoch: int) -> None:
        """Trains for one epoch, evaluates and tells the watcher."""
        trainer = self.trainer
        lr = trainer.lr_at(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        order = torch.randperm(len(self.dataset.train_labels), generator=generator(self.seed, "order", epoch))
        started = time.perf_counter()
        sums = self._train(order, epoch)
        means = sums.means()  # waits for the device, so the time is right
        seconds = time.perf_counter() - started
        self.seconds += seconds
        due = (epoch + 1) % trainer.eval_every == 0 or epoch + 1 == trainer.epochs
        last = epoch + 1 == trainer.epochs
        done = Epoch(
            epoch=epoch + 1, lr=lr, total=means.total, terms=means.terms, train_top1=means.top1,
            val=self._evaluate("val", with_teacher=False) if due and "val" in self.dataset.splits else None,
            test=self._evaluate("test", with_teacher=last) if due else None,
            seconds=seconds,
        )  # fmt: skip
        self.fit.epochs.append(done)
        self.watcher.epoch(done)

    def result(self) -> Fit:
        """The figures of the whole training."""
        self.fit.seconds_per_step = self.seconds / self.fit.steps
        self.fit.peak_memory_mib = memory.peak_mib(self.device)
        return self.fit

    def _train(self, order: Tensor, epoch: int) -> _EpochSums:
        self.student.train()
        sums = _EpochSums()
        augmentation = derive(self.seed, "augmentation", epoch)
        for batch in self.dataset.train_batches(order, self.trainer.batch_size, augmentation, self.device):
            logits, losses = self._step(batch, Progress(self.fit.steps, epoch, self.trainer.epochs))
            self.fit.steps += 1
            sums.add(batch.labels, logits, losses)
            self.watcher.step()
        return sums

    def _step(self, batch: Batch, progress: Progress) -> tuple[Tensor, Losses]:
        student = self.wrapped(batch.images)
        teacher = None
        if self.teacher is not None:
            with torch.no_grad():
                teacher = self.teacher(batch.images)
        losses = self.objective(
            DistillationBatch(student, teacher, batch.labels, batch.indices, progress=progress)
        )
        self.optimizer.zero_grad()
        self.fabric.backward(losses.total)
        self.optimizer.step()
        self.objective.after_step()
        return student.logits.detach(), losses

    def _evaluate(self, split: str, with_teacher: bool) -> Evaluation:
        return evaluate(
            self.student, self.dataset, split, teacher=self.teacher if with_teacher else None,
            batch_size=self.trainer.eval_batch_size, device=self.device,
        )  # fmt: skip


@dataclass(frozen=True)
class _EpochMeans:
    total: float
    terms: dict[str, dict[str, float]]
    top1: float


class _EpochSums:
    """Sums over an epoch's samples that stay on the device until the epoch is over."""

    def __init__(self) -> None:
        # By the terms that a batch has: HKD has fewer on a batch too small for its graph.
        self.sums: dict[tuple[str, ...], Tensor] = {}
        self.samples: dict[tuple[str, ...], int] = {}

    def add(self, labels: Tensor, logits: Tensor, losses: Losses) -> None:
        names = tuple(losses.raw)
        correct = (logits.argmax(dim=1) == labels).double().mean()
        values = [correct, losses.total, *losses.raw.values(), *losses.weighted.values()]
        scaled = len(labels) * torch.stack([value.detach().double() for value in values])
        self.sums[names] = self.sums[names] + scaled if names in self.sums else scaled
        self.samples[names] = self.samples.get(names, 0) + len(labels)

    def means(self) -> _EpochMeans:
        correct, total, samples = 0.0, 0.0, sum(self.samples.values())
        terms: dict[str, dict[str, float]] = {}
        for names, sums in self.sums.items():
            group_correct, group_total, *values = sums.tolist()
            correct, total = correct + group_correct, total + group_total
            for index, name in enumerate(names):
                term = terms.setdefault(name, {"raw": 0.0, "weighted": 0.0, "samples": 0.0})
                term["raw"] += values[index]
                term["weighted"] += values[len(names) + index]
                term["samples"] += self.samples[names]
        means = {
            name: {"raw": term["raw"] / term["samples"], "weighted": term["weighted"] / term["samples"]}
            for name, term in terms.items()
        }
        return _EpochMeans(total / samples, means, 100 * correct / samples)


def _frozen(network: Network) -> Network:
    network.eval()
    network.requires_grad_(False)
    return network
