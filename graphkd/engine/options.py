"""Options of a training, each stated once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from graphkd.binding import bind, options_of
from graphkd.engine.checkpoint import parse_every
from graphkd.engine.matmul import MatmulPrecision
from graphkd.errors import check
from graphkd.model import Network

_MOST = 10**18
"""Larger counts overflow somewhere."""
_MOST_THREADS = 1024
_COUNTS = (
    "epochs", "batch_size", "samples_per_class", "accumulate", "eval_every", "eval_batch_size", "devices", "nodes",
    "threads",
)  # fmt: skip


@dataclass(frozen=True)
class TrainerOptions:
    """Options of a training; by default the protocol of the CRD/HKD benchmark (arXiv 1910.10699).

    The student's and the objective's parameters are trained by one optimizer.

    Attributes:
        epochs: Passes over the training data.
        batch_size: Samples per batch, over all devices; an epoch's last, smaller batch is used too.
        samples_per_class: How many samples of a class come one after another, so that a batch holds groups of them; a
            graph of the batch then has neighbours of a sample's own class. 1 draws a batch from all samples.
        lr: Learning rate at the start.
        momentum: SGD's momentum, or AdamW's first beta.
        nesterov: Whether SGD's momentum is Nesterov's.
        weight_decay: L2 penalty (AdamW: decoupled), on the objective's parameters too.
        decay_at: Shares of the epochs after which the learning rate falls (150, 180 and 210 of 240).
        decay: Factor of each fall.
        optimizer: SGD or AdamW.
        schedule: `steps` (`decay_at`), or half a `cosine` down to 0 over the epochs.
        accumulate: Number of batches whose gradients a step averages.
        clip_norm: Largest norm of a step's gradient; None for no limit.
        ema: Decay of an exponential moving average of the student, which is then evaluated and saved instead.
        precision: Precision of the student's forward and backward: float32, or mixed with bfloat16 or float16.
        teacher_precision: Precision of the teacher; None for the student's.
        matmul_precision: Precision of float32 matrix products, such as the objective's: `highest` is exact float32;
            with `high` and `medium` torch may round the factors to TF32 or bfloat16 where that is faster.
        channels_last: Whether the networks keep their maps channels last: the same result but for rounding.
        compile: Whether `torch.compile` compiles the networks, anew in each process: nothing that another process
            compiled, or left half-written, is reused.
        non_finite: What a NaN or infinite loss does: `stop` the run, or `skip` the step.
        eval_every: Epochs between evaluations; the last epoch is always evaluated.
        eval_batch_size: Samples per batch in evaluation; changes memory and speed only.
        accelerator: Kind of device; auto uses CUDA if available.
        devices: Processes on each machine, each with its own device.
        nodes: Number of machines.
        strategy: How several processes train: `ddp`, or `auto`, which is `ddp` if there are several.
        threads: Threads of torch on the CPU; results are bit-equal only at the same number.
        checkpoint_every: How often a run writes a checkpoint: "N steps" or "N seconds".
        diagnostics: Whether to measure now and then what explains the objective: homophily and overlap of its graphs,
            similarities of its contrast. It changes no training.

    Raises:
        UserError: An option is of a wrong type, no choice, or out of its range.
    """

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset(
        {"accelerator", "devices", "nodes", "strategy", "threads", "eval_batch_size", "checkpoint_every", "diagnostics"}
    )

    epochs: int = 240
    batch_size: int = 64
    samples_per_class: int = 1
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    decay_at: Sequence[float] = (0.625, 0.75, 0.875)
    decay: float = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    schedule: Literal["steps", "cosine"] = "steps"
    accumulate: int = 1
    clip_norm: float | None = None
    ema: float | None = None
    precision: Literal[32, "bf16", 16] = 32
    teacher_precision: Literal[32, "bf16", 16] | None = None
    matmul_precision: MatmulPrecision = "highest"
    channels_last: bool = False
    compile: bool = False
    non_finite: Literal["stop", "skip"] = "stop"
    eval_every: int = 1
    eval_batch_size: int = 256
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    threads: int = 2
    checkpoint_every: str = "300 seconds"
    diagnostics: bool = True

    def __post_init__(self) -> None:
        for name, value in bind(vars(self), options_of(TrainerOptions), "trainer").all.items():
            check(
                not isinstance(value, float) or math.isfinite(value), f"trainer: {name} is {value}, but must be finite"
            )
            object.__setattr__(self, name, value)  # as the annotation says: a float for an integer, a tuple for a list
        for name in _COUNTS:
            count = getattr(self, name)
            check(count >= 1, f"trainer: {name} is {count}, but must be at least 1")
            check(count <= _MOST, f"trainer: {name} is above {_MOST}")
        check(self.threads <= _MOST_THREADS, f"trainer: threads is {self.threads}, but must be at most {_MOST_THREADS}")
        check(self.lr > 0, f"trainer: lr is {self.lr}, but must be positive")
        for name in ("momentum", "weight_decay", "decay"):
            value = getattr(self, name)
            check(value >= 0, f"trainer: {name} is {value}, but must be at least 0")
        momentum, clip_norm, ema = self.momentum, self.clip_norm, self.ema
        check(not self.nesterov or self.optimizer == "sgd", "trainer: nesterov=true needs optimizer=sgd")
        check(not self.nesterov or momentum > 0, "trainer: nesterov=true needs a momentum above 0")
        fits = self.optimizer == "sgd" or momentum < 1
        check(fits, f"trainer: momentum is {momentum}, but AdamW's must be below 1")
        check(clip_norm is None or clip_norm > 0, f"trainer: clip_norm is {clip_norm}, but must be positive or null")
        check(ema is None or 0 < ema < 1, f"trainer: ema is {ema}, but must be between 0 and 1, or null")
        check(
            self.samples_per_class <= self.batch_size,
            f"trainer: samples_per_class is {self.samples_per_class}, but a batch has {self.batch_size} samples",
        )
        check(
            self.batch_size >= self.processes,
            f"trainer: batch_size is {self.batch_size}, but must be at least 1 for each of {self.processes} devices",
        )
        check(
            all(0 < share < 1 for share in self.decay_at),
            f"trainer: decay_at is {list(self.decay_at)}, but each must be a share of the epochs, between 0 and 1",
        )
        parse_every(self.checkpoint_every)

    @property
    def processes(self) -> int:
        """Number of processes that train together."""
        return self.devices * self.nodes

    @property
    def decay_epochs(self) -> list[int]:
        """Epochs after which the learning rate falls."""
        return decay_epochs(self.decay_at, self.epochs)

    def lr_at(
        self, epoch: int, epochs: int | None = None, lr: float | None = None, falls: Sequence[int] | None = None
    ) -> float:
        """Return the learning rate of an epoch, counted from 0.

        Args:
            epoch: Index of the epoch.
            epochs: Number of epochs; this and the following arguments are the trainer's by default.
            lr: The rate at the start.
            falls: Epochs after which it falls.
        """
        start = self.lr if lr is None else lr
        if self.schedule == "cosine":
            return start * 0.5 * (1 + math.cos(math.pi * epoch / (self.epochs if epochs is None else epochs)))
        return start * self.decay ** sum(epoch >= fall for fall in (self.decay_epochs if falls is None else falls))

    def make_optimizer(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """Return the optimizer of parameter groups; its step is fused on CUDA, all tensors at once elsewhere.

        Raises:
            UserError: The first group, the student's or that of a stage, is empty.
        """
        check(len(groups[0]["params"]) > 0, "the student has no parameter to train: all are frozen")
        # A fused step unscales float16's gradients itself, too late for clipping.
        scaled = self.precision == 16 and self.clip_norm is not None
        how = {"fused": True} if groups[0]["params"][0].is_cuda and not scaled else {"foreach": True}
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=lr, betas=(self.momentum, 0.999), weight_decay=self.weight_decay, **how)
        return torch.optim.SGD(
            groups, lr=lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay, **how
        )

    def average(self, student: Network) -> AveragedModel | None:
        """Return the moving average of the student's weights and statistics; None without `ema`."""
        if self.ema is None:
            return None
        update = get_ema_multi_avg_fn(self.ema)  # type: ignore[no-untyped-call]
        return AveragedModel(student, multi_avg_fn=update, use_buffers=True)

    def teacher_autocast(self, device: torch.device) -> torch.autocast:
        """Return the autocast context of the teacher's precision."""
        precision = self.precision if self.teacher_precision is None else self.teacher_precision
        dtype = {32: torch.float32, "bf16": torch.bfloat16, 16: torch.float16}[precision]
        return torch.autocast(device.type, dtype, enabled=precision != 32)


def decay_epochs(shares: Sequence[float], epochs: int) -> list[int]:
    """Return the epochs after which the learning rate falls, at least 1 each, from their shares of all epochs."""
    return [max(1, round(share * epochs)) for share in shares]
