"""Selections: the negatives of one step, as rows of a bank and weights, in blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from graphkd.contrast.shard import inside, slices

# With more bank rows per negative than this, products with each anchor's own rows are cheaper than with all rows
# (measured on two CPU threads: equal at 8 to 14).
GATHER_FROM = 10
# Most entries of the table that counts how often each row is listed for each anchor.
_TABLE = 1 << 23


@dataclass(frozen=True)
class Block:
    """A block of a selection: some anchors, some rows of the bank, and the weight of each pair.

    Attributes:
        anchors: The b anchors.
        rows: The c rows: a slice or int64 [c] for all these anchors, or int64 [b, c] for each its own.
        weights: Weight of each row for each anchor, float32 [b, c]; None for 1.
    """

    anchors: slice
    rows: slice | Tensor
    weights: Tensor | None


class Selection(ABC):
    """The negatives of one step, for all queries of its anchors; invalid once a queue has been updated."""

    @abstractmethod
    def counts(self) -> Tensor:
        """Return the number of negatives of each anchor (the sum of their weights), float32 [B]."""

    @abstractmethod
    def blocks(self, rows: int, pairs: int, within: slice | None = None) -> Iterator[Block]:
        """Return the selection in blocks.

        Args:
            rows: Most bank rows of a block.
            pairs: About the most pairs of anchor and row of a block.
            within: Leave out all other rows of the bank, or weight them by 0.
        """


@dataclass(frozen=True)
class ExplicitSelection(Selection):
    """Negatives listed for each anchor.

    Attributes:
        indices: Rows of the bank, int64 [B, K]; one listed twice counts twice.
        num_rows: Number of rows of the bank.
        scale: Factor on the weights of each anchor's negatives, float32 [B, 1]; None for 1.
    """

    indices: Tensor
    num_rows: int
    scale: Tensor | None = None

    def counts(self) -> Tensor:
        anchors, negatives = self.indices.shape
        counts = torch.full((anchors, 1), float(negatives), device=self.indices.device)
        return _scaled(counts, self.scale).squeeze(1)

    def blocks(self, rows: int, pairs: int, within: slice | None = None) -> Iterator[Block]:
        """Return each anchor's own rows where they are few, else all rows weighted by how often each is listed."""
        if self.num_rows >= GATHER_FROM * self.indices.shape[1]:
            return _restricted(self._own_rows(rows), within)
        return self._all_rows(rows, pairs, within)

    def _own_rows(self, rows: int) -> Iterator[Block]:
        anchors, negatives = self.indices.shape
        for some in slices(slice(0, anchors), max(1, rows // max(1, negatives))):
            for part in slices(slice(0, negatives), rows):
                own = self.indices[some, part]
                yield Block(some, own, None if self.scale is None else self.scale[some].expand(own.shape))

    def _all_rows(self, rows: int, pairs: int, within: slice | None) -> Iterator[Block]:
        anchors, negatives = self.indices.shape
        counted = within or slice(0, self.num_rows)
        columns = counted.stop - counted.start
        dtype = torch.int16 if negatives <= torch.iinfo(torch.int16).max else torch.int32
        for some in slices(slice(0, anchors), max(1, _TABLE // columns)):
            listed = self.indices[some]
            if within is not None:  # the rest is counted in one more column
                listed = torch.where(inside(listed, within), listed - within.start, columns)
            table = torch.zeros(len(listed), columns + 1, dtype=dtype, device=listed.device)
            table.scatter_add_(1, listed, table.new_ones(()).expand(listed.shape))
            for part in slices(counted, min(rows, max(1, pairs // len(listed)))):
                weights = table[:, part.start - counted.start : part.stop - counted.start].float()
                yield Block(some, part, weights if self.scale is None else weights * self.scale[some])


@dataclass(frozen=True)
class SharedSelection(Selection):
    """One ordering of bank rows for all anchors: each takes the first K of other classes.

    Attributes:
        rows: Rows of the bank in random order, int64 [M]; enough for K of other classes.
        row_labels: Their classes, int32 [M].
        labels: Classes of the anchors, int32 [B, 1].
        negatives: K.
        repeats: Weight of the r-th row of another class, float32 [B, K + 1], the last column 0; None for 1.
    """

    rows: Tensor
    row_labels: Tensor
    labels: Tensor
    negatives: int
    repeats: Tensor | None = None

    def counts(self) -> Tensor:
        if self.repeats is not None:
            return self.repeats.sum(1)
        return torch.full((len(self.labels),), float(self.negatives), device=self.labels.device)

    def blocks(self, rows: int, pairs: int, within: slice | None = None) -> Iterator[Block]:
        return _restricted(self._in_order(rows, pairs), within)

    def _in_order(self, rows: int, pairs: int) -> Iterator[Block]:
        seen = torch.zeros_like(self.labels)
        for part in slices(slice(0, len(self.rows)), min(rows, max(1, pairs // len(self.labels)))):
            weights = _of_other_class(self.row_labels[part], self.labels)
            before = seen
            seen = before + weights.sum(1, keepdim=True).to(torch.int32)
            if self.repeats is not None or part.stop > self.negatives:
                weights = self._repeated(weights, before)
            yield Block(slice(None), self.rows[part], weights)

    def _repeated(self, other: Tensor, seen: Tensor) -> Tensor:
        """Return the weights of rows of another class, the first of which has rank `seen`."""
        rank = seen + other.cumsum(1, dtype=torch.int32) - 1
        if self.repeats is None:
            return other * (rank < self.negatives)
        return other * self.repeats.gather(1, rank.clamp(0, self.negatives).long())


@dataclass(frozen=True)
class AllSelection(Selection):
    """Every row of another class than the anchor's own.

    Attributes:
        row_labels: Classes of the bank's filled rows, int32 [U].
        labels: Classes of the anchors, int32 [B, 1].
        pools: Number of rows of another class for each anchor, float32 [B, 1].
        scale: Weight of each anchor's negatives, float32 [B, 1]; None for 1.
    """

    row_labels: Tensor
    labels: Tensor
    pools: Tensor
    scale: Tensor | None = None

    def counts(self) -> Tensor:
        return _scaled(self.pools, self.scale).squeeze(1)

    def blocks(self, rows: int, pairs: int, within: slice | None = None) -> Iterator[Block]:
        within = within or slice(0, len(self.row_labels))
        for part in slices(within, min(rows, max(1, pairs // len(self.labels)))):
            other = _of_other_class(self.row_labels[part], self.labels)
            yield Block(slice(None), part, _scaled(other, self.scale))


def _restricted(blocks: Iterator[Block], within: slice | None) -> Iterator[Block]:
    """Yield blocks that name their rows one by one, without those outside a slice."""
    for block in blocks:
        if within is None:
            yield block
            continue
        assert isinstance(block.rows, Tensor)
        counts = inside(block.rows, within)
        weights = counts.float() if block.weights is None else block.weights * counts
        if not _may_wait_for(block.rows.device):
            yield Block(block.anchors, block.rows, weights)
            continue
        columns = counts.view(-1, counts.shape[-1]).any(0).nonzero().squeeze(1)
        if len(columns):
            yield Block(block.anchors, block.rows.index_select(-1, columns), weights.index_select(-1, columns))


def _may_wait_for(device: torch.device) -> bool:
    """Return whether the host may ask a device for a number of rows without losing time."""
    return device.type == "cpu"


def _scaled(weights: Tensor, scale: Tensor | None) -> Tensor:
    return weights if scale is None else weights * scale


def _of_other_class(row_labels: Tensor, labels: Tensor) -> Tensor:
    """Return 1 where a row's class is not the anchor's, else 0: float32 [B, c] from int32 [c] and [B, 1]."""
    # On a CPU twice as fast as a comparison that gives bool.
    return (row_labels - labels).ne_(0).float()
