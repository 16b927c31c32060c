"""The training samples by class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassOrder:
    """Rows of a bank sorted by class, which gives the rows outside a class by number.

    Attributes:
        rows: Filled rows, sorted by label, int32 or int64 [U].
        starts: Where each of C classes begins, and twice the end of the last, int64 [C + 2].
    """

    rows: Tensor
    starts: Tensor

    @classmethod
    def of(cls, labels: Tensor, classes: int) -> ClassOrder:
        """Return the order of rows with these labels, [U], below the number of classes C."""
        counts = torch.zeros(classes + 2, dtype=torch.int64, device=labels.device)
        counts.scatter_add_(0, labels.long() + 1, counts.new_ones(()).expand(labels.shape))
        return cls(torch.sort(labels, stable=True)[1], counts.cumsum(0))

    def blocks(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return each class's start in `rows` and its number of rows (0 if unknown): int64, like `labels`."""
        known = labels.clamp(max=len(self.starts) - 2)
        start = self.starts[known]
        return start, self.starts[known + 1] - start


class Samples:
    """The classes of the training samples, shared by all banks of the same samples.

    Attributes:
        labels: Class of every sample, int32 [N].
        classes: One more than the largest label.
    """

    def __init__(self, labels: Tensor) -> None:
        """Hold these classes, int64 [N]."""
        self.labels = labels.to(torch.int32)
        self.classes = int(labels.max()) + 1
        self._by_class: tuple[ClassOrder, int] | None = None

    @property
    def order(self) -> ClassOrder:
        """The samples sorted by class, in 4 bytes each where N allows it."""
        return self._sorted()[0]

    @property
    def largest_class(self) -> int:
        """Size of the largest class."""
        return self._sorted()[1]

    def to(self, device: torch.device) -> None:
        """Move everything in place."""
        self.labels = self.labels.to(device)
        if self._by_class is not None:
            order, largest = self._by_class
            self._by_class = ClassOrder(order.rows.to(device), order.starts.to(device)), largest

    def _sorted(self) -> tuple[ClassOrder, int]:
        if self._by_class is None:  # a queue never asks
            order = ClassOrder.of(self.labels, self.classes)
            narrow = torch.int32 if len(self.labels) <= torch.iinfo(torch.int32).max else torch.int64
            self._by_class = ClassOrder(order.rows.to(narrow), order.starts), int(order.starts.diff().max())
        return self._by_class
