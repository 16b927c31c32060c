"""Samplers of negatives, and the selections of bank rows that they return.

Every sampler draws K negatives for each anchor, uniformly and without replacement, from the filled rows of other
classes than the anchor's. Only where there are fewer than K such rows, it draws with replacement. Everything runs on
the bank's device, from the given generator, without waiting for the device.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from graphkd.contrast.bank import Bank
from graphkd.contrast.shard import inside
from graphkd.errors import check, one_of

# With more bank rows per negative than this, products with each anchor's own rows are cheaper than with all rows
# (measured on two CPU threads: equal at 8 to 14).
GATHER_FROM = 10
# With more rows per draw than this, rejecting repeats is cheaper than ordering all rows.
_REJECT_ABOVE = 2
# With more rows per draw than this, sorting finds repeats faster than a table of all rows (measured on two CPU threads:
# equal at 100 to 300), in memory that does not grow with the bank.
_SORT_FROM = 128
# Most entries of the table that counts how often each row is listed for each anchor.
_TABLE = 1 << 23
_MOST = 2**31 - 1  # negatives are counted in int32


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
        for some in _slices(slice(0, anchors), max(1, rows // max(1, negatives))):
            for part in _slices(slice(0, negatives), rows):
                own = self.indices[some, part]
                yield Block(some, own, None if self.scale is None else self.scale[some].expand(own.shape))

    def _all_rows(self, rows: int, pairs: int, within: slice | None) -> Iterator[Block]:
        anchors, negatives = self.indices.shape
        counted = within or slice(0, self.num_rows)
        columns = counted.stop - counted.start
        dtype = torch.int16 if negatives <= torch.iinfo(torch.int16).max else torch.int32
        for some in _slices(slice(0, anchors), max(1, _TABLE // columns)):
            listed = self.indices[some]
            if within is not None:  # the rest is counted in one more column
                listed = torch.where(inside(listed, within), listed - within.start, columns)
            table = torch.zeros(len(listed), columns + 1, dtype=dtype, device=listed.device)
            table.scatter_add_(1, listed, table.new_ones(()).expand(listed.shape))
            for part in _slices(counted, min(rows, max(1, pairs // len(listed)))):
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
        for part in _slices(slice(0, len(self.rows)), min(rows, max(1, pairs // len(self.labels)))):
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
        for part in _slices(within, min(rows, max(1, pairs // len(self.labels)))):
            other = _of_other_class(self.row_labels[part], self.labels)
            yield Block(slice(None), part, _scaled(other, self.scale))


class Sampler(ABC):
    """Choose negatives from a bank; one sampler serves all banks with the same samples in the same rows.

    Args:
        bank: Supplies the classes of the rows at each draw.
        negatives: K, the number of negatives for each anchor.

    Raises:
        UserError: K is below 1, or too large for int32.
    """

    def __init__(self, bank: Bank, negatives: int) -> None:
        check(negatives >= 1, f"the number of negatives is {negatives}, but must be 1 or more")
        check(negatives <= _MOST, f"the number of negatives is {negatives}, but must be at most {_MOST}")
        self.bank = bank
        self.negatives = negatives

    @abstractmethod
    def select(self, labels: Tensor, generator: Generator | None = None) -> Selection:
        """Return the negatives of one step.

        Args:
            labels: Class of each anchor, int64 [B].
            generator: Of the draw, on the bank's device; None for torch's default.
        """

    def _may_fall_short(self) -> bool:
        """Return whether an anchor may have fewer than K rows to choose from."""
        return self.bank.used - self.bank.largest_class < self.negatives

    def _pools(self, labels: Tensor) -> Tensor:
        """Return how many rows each anchor may choose from, int64 like `labels`."""
        return self.bank.used - self.bank.by_class().blocks(labels)[1]


class ExplicitSampler(Sampler):
    """K negatives drawn for each anchor independently, as published. Arguments as in `Sampler`."""

    def select(self, labels: Tensor, generator: Generator | None = None) -> ExplicitSelection:
        used, num_rows = self.bank.used, self.bank.shard.total
        if used == 0:
            return ExplicitSelection(labels.new_empty(len(labels), 0), num_rows)
        order = self.bank.by_class()
        start, size = order.blocks(labels[:, None])
        indices = labels.new_empty(len(labels), self.negatives)
        # Entries of a draw's intermediate results: as many as the cache holds, on a CPU.
        entries = 1 << 16 if labels.device.type == "cpu" else 1 << 24
        for some in _slices(slice(0, len(labels)), max(1, entries // used)):
            ranks = self._draw(used - size[some], generator)
            ranks += size[some] * (ranks >= start[some])
            indices[some] = order.rows[ranks.clamp_(max=used - 1)]
        has_any = (size < used).float() if self._may_fall_short() else None
        return ExplicitSelection(indices, num_rows, has_any)

    def _draw(self, pools: Tensor, generator: Generator | None) -> Tensor:
        """Return K numbers below each pool size, [b, 1]: int64 [b, K]."""
        used, negatives = self.bank.used, self.negatives
        if not self._may_fall_short():
            return _distinct(pools, used - self.bank.largest_class, used, negatives, generator)
        repeated = _below(pools, negatives, generator)
        if used < negatives:
            return repeated
        return torch.where(pools < negatives, repeated, _distinct(pools, 0, used, negatives, generator))


class SharedSampler(Sampler):
    """One random ordering of the bank per step; each anchor takes its first K rows of other classes.

    Each anchor's negatives are distributed as if drawn for it alone, so loss and gradient are unbiased; but the anchors
    of a batch mostly share them, so their draws are not independent. Arguments as in `Sampler`.
    """

    def select(self, labels: Tensor, generator: Generator | None = None) -> SharedSelection:
        bank = self.bank
        rows = _ordering(bank.used, self._length(), generator, labels.device)
        repeats = self._repeats(self._pools(labels), generator) if self._may_fall_short() else None
        row_labels = bank.labels[rows]
        return SharedSelection(rows, row_labels, labels.to(torch.int32)[:, None], self.negatives, repeats)

    def _length(self) -> int:
        """Return how many rows hold K of other classes for every anchor, surely or up to a chance of 1e-20."""
        used, largest = self.bank.used, self.bank.largest_class
        if self._may_fall_short():
            return used
        rows_per_negative = used / (used - largest)
        own = self.negatives * (rows_per_negative - 1)
        return min(used, self.negatives + largest, _with_spare(self.negatives, own, rows_per_negative))

    def _repeats(self, pools: Tensor, generator: Generator | None) -> Tensor:
        """Return how often each rank is drawn: once up to K, or K times with replacement from a pool below K."""
        uniform = torch.rand(self.negatives, dtype=torch.float64, device=pools.device, generator=generator)
        ranks = (uniform * pools[:, None]).long()
        once = torch.ones(len(pools), self.negatives, device=pools.device)
        drawn = torch.zeros_like(once).scatter_add_(1, ranks.clamp_(max=self.negatives - 1), once)
        pools = pools[:, None]
        repeats = torch.where(pools < self.negatives, drawn * (pools > 0), once)
        return torch.nn.functional.pad(repeats, (0, 1))


class AllSampler(Sampler):
    """Take every row of another class: another objective, with more negatives and no draws.

    Arguments as in `Sampler`; `weighted` weights an anchor's negatives by K / their number, which gives the expectation
    of the sampled sum.
    """

    def __init__(self, bank: Bank, negatives: int, weighted: bool = False) -> None:
        super().__init__(bank, negatives)
        self.weighted = weighted

    def select(self, labels: Tensor, generator: Generator | None = None) -> AllSelection:
        pools = self._pools(labels)[:, None].float()
        scale = self.negatives / pools.clamp(min=1) if self.weighted else None
        row_labels = self.bank.labels[: self.bank.used]
        return AllSelection(row_labels, labels.to(torch.int32)[:, None], pools, scale)


SAMPLERS: dict[str, Callable[[Bank, int], Sampler]] = {
    "explicit": ExplicitSampler,
    "shared": SharedSampler,
    "all": AllSampler,
    "all_weighted": partial(AllSampler, weighted=True),
}


def build_sampler(name: str, bank: Bank, negatives: int) -> Sampler:
    """Return a sampler by its name in a config: explicit, shared, all or all_weighted.

    Raises:
        UserError: There is none of that name, or K is below 1.
    """
    return SAMPLERS[one_of(name, SAMPLERS, "there is no sampler")](bank, negatives)


def _slices(whole: slice, step: int) -> Iterator[slice]:
    """Yield a slice cut into slices of `step`, the last one shorter."""
    for start in range(whole.start, whole.stop, step):
        yield slice(start, min(start + step, whole.stop))


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


def _below(limits: Tensor, count: int, generator: Generator | None) -> Tensor:
    """Draw uniformly with replacement from 0..limit-1: int64 [b, count] for limits [b, 1]."""
    shape = len(limits), count
    # float32 has too few values to be uniform over a large bank.
    return (torch.rand(shape, dtype=torch.float64, device=limits.device, generator=generator) * limits).long()


def _distinct(pools: Tensor, fewest: int, most: int, count: int, generator: Generator | None) -> Tensor:
    """Draw `count` numbers without replacement from 0..pool-1, int64 [b, count], for every pool that holds as many.

    The pools' sizes, int64 [b, 1], lie between `fewest` and `most`, which is at least `count`.
    """
    if fewest > _REJECT_ABOVE * count:
        return _without_repeats(pools, fewest, most, count, generator)
    keys = torch.rand(len(pools), most, device=pools.device, generator=generator)
    keys.masked_fill_(torch.arange(most, device=pools.device) >= pools, 2.0)
    return keys.topk(count, largest=False, sorted=False).indices


def _ordering(total: int, length: int, generator: Generator | None, device: torch.device) -> Tensor:
    """Return the first `length` of a random ordering of 0..total-1, int64."""
    if total <= _REJECT_ABOVE * length:
        return torch.randperm(total, device=device, generator=generator)[:length]
    pool = torch.full((1, 1), total, device=device)
    return _without_repeats(pool, total, total, length, generator)[0]


def _with_spare(hits: int, misses: float, tries_per_hit: float) -> int:
    """Return how many tries give `hits` hits up to a chance below 1e-20, by Chernoff's bound.

    Args:
        hits: Number of hits needed.
        misses: Expected number of misses until then.
        tries_per_hit: Expected number of tries for the last hit, the most for any.
    """
    return math.ceil(hits + misses + 16 * math.sqrt(misses * tries_per_hit) + 40 * tries_per_hit)


def _without_repeats(pools: Tensor, fewest: int, most: int, count: int, generator: Generator | None) -> Tensor:
    """Return the first `count` distinct numbers of a sequence of draws with replacement; arguments as in `_distinct`.

    The sequence is long enough for the smallest pool up to a chance below 1e-20, so nothing waits for the device.
    """
    repeats = -fewest * math.log1p(-count / fewest) - count
    length = _with_spare(count, repeats, fewest / (fewest - count))
    draws = _below(pools, length, generator)
    is_new = _first_occurrences(draws, most)
    # The n-th new number goes to place n; repeats go to place 0 and a surplus to the last, which are cut off.
    place = (is_new.cumsum(1, dtype=torch.int32) * is_new).clamp_(max=count + 1).long()
    return draws.new_zeros(len(pools), count + 2).scatter_(1, place, draws)[:, 1:-1]


def _first_occurrences(draws: Tensor, most: int) -> Tensor:
    """Return which draws do not repeat an earlier one of their row: bool, like `draws`, int64 [b, n] below `most`."""
    length = draws.shape[1]
    if most > _SORT_FROM * length:
        values, order = draws.sort(dim=1, stable=True)
        is_new = torch.ones_like(values, dtype=torch.bool)
        is_new[:, 1:] = values[:, 1:] != values[:, :-1]
        return torch.empty_like(is_new).scatter_(1, order, is_new)
    turn = torch.arange(length, dtype=torch.int32, device=draws.device).expand(draws.shape)
    first = torch.full((len(draws), most), length, dtype=torch.int32, device=draws.device)
    first.scatter_reduce_(1, draws, turn, "amin")
    return first.gather(1, draws) == turn
