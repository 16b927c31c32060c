"""What a distillation with HKD will need, from its sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphkd.errors import check

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BANKS = 2
PARTS = 2
_LABEL = 4  # a sample's class, int32, shared by both banks
_ORDER = 4  # the samples by class, int32, shared by full banks
_QUEUED = 4 + 8  # a queue's labels, int32, and indices, int64
_ROW = 4  # which of a queue's rows a sample has, int32


@dataclass(frozen=True)
class Plan:
    """Sizes of an HKD objective (N, B over all processes, K, D) and what they come to in each process.

    Banks are stored as `dtype`. `length` is the rows of a queue; None for full banks, whose rows `world` processes
    share (`bank.sharded`).
    """

    samples: int = 50_000
    batch: int = 64
    negatives: int = 16_384
    dim: int = 128
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    length: int | None = None
    world: int = 1

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            UserError: One is out of range, or a queue is to be shared.
        """
        for name in ("samples", "batch", "negatives", "dim", "world", "length"):
            size = getattr(self, name)
            check(size is None or size >= 1, f"plan: {name} is {size}, but must be at least 1")
        check(self.length is None or self.world == 1, "plan: a queue is kept whole by every process: leave out world")
        check(self.world <= self.samples, f"plan: {self.samples} samples cannot be shared among {self.world} processes")

    @property
    def rows(self) -> int:
        """Bytes of both banks' rows."""
        rows = -(-self.samples // self.world) if self.length is None else self.length
        return BANKS * rows * self.dim * BYTES[self.dtype]

    @property
    def index(self) -> int:
        """Bytes of classes and order beside the rows, in every process."""
        if self.length is None:
            return (_LABEL + _ORDER) * self.samples
        return _LABEL * self.samples + BANKS * (_QUEUED * self.length + _ROW * self.samples)

    @property
    def held(self) -> int:
        """Bytes that stay."""
        return self.rows + self.index

    @property
    def exchanged(self) -> int:
        """Bytes that a process puts into the exchanges of a step where banks are sharded."""
        if self.world == 1:
            return 0
        largest, total, mixture = 1, 1, self.dim
        return BANKS * 4 * self.batch * (self.dim + PARTS * (largest + total + mixture))

    @property
    def saved(self) -> int:
        """Bytes of both banks in a checkpoint, put together in the memory of the first process's host."""
        return self.rows if self.length is not None else BANKS * self.samples * self.dim * BYTES[self.dtype]

    @property
    def flops(self) -> int:
        """Operations of the contrast in a step, forward and backward."""
        products, multiply_and_add = 2, 2
        return BANKS * PARTS * products * multiply_and_add * self.batch * self.negatives * self.dim // self.world
