"""Samplers of negatives.

Every sampler draws K negatives for each anchor, uniformly and without replacement, from the filled rows of other
classes than the anchor's. Only where there are fewer than K such rows, it draws with replacement. Everything runs on
the bank's device, from the given generator, without waiting for the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor

from graphkd.contrast.bank import Bank
from graphkd.contrast.draws import below, distinct, ordering, with_spare
from graphkd.contrast.selection import AllSelection, ExplicitSelection, Selection, SharedSelection
from graphkd.contrast.shard import slices
from graphkd.errors import check, one_of

_MOST = 2**31 - 1  # negatives are counted in int32


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
        for some in slices(slice(0, len(labels)), max(1, entries // used)):
            ranks = self._draw(used - size[some], generator)
            ranks += size[some] * (ranks >= start[some])
            indices[some] = order.rows[ranks.clamp_(max=used - 1)]
        has_any = (size < used).float() if self._may_fall_short() else None
        return ExplicitSelection(indices, num_rows, has_any)

    def _draw(self, pools: Tensor, generator: Generator | None) -> Tensor:
        """Return K numbers below each pool size, [b, 1]: int64 [b, K]."""
        used, negatives = self.bank.used, self.negatives
        if not self._may_fall_short():
            return distinct(pools, used - self.bank.largest_class, used, negatives, generator)
        repeated = below(pools, negatives, generator)
        if used < negatives:
            return repeated
        return torch.where(pools < negatives, repeated, distinct(pools, 0, used, negatives, generator))


class SharedSampler(Sampler):
    """One random ordering of the bank per step; each anchor takes its first K rows of other classes.

    Each anchor's negatives are distributed as if drawn for it alone, so loss and gradient are unbiased; but the anchors
    of a batch mostly share them, so their draws are not independent. Arguments as in `Sampler`.
    """

    def select(self, labels: Tensor, generator: Generator | None = None) -> SharedSelection:
        bank = self.bank
        rows = ordering(bank.used, self._length(), generator, labels.device)
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
        return min(used, self.negatives + largest, with_spare(self.negatives, own, rows_per_negative))

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
