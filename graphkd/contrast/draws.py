"""Random draws with and without replacement, for all anchors at once and without waiting for the device."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

# With more rows per draw than this, rejecting repeats is cheaper than ordering all rows.
_REJECT_ABOVE = 2
# With more rows per draw than this, sorting finds repeats faster than a table of all rows (measured on two CPU threads:
# equal at 100 to 300), in memory that does not grow with the bank.
_SORT_FROM = 128


def below(limits: Tensor, count: int, generator: Generator | None) -> Tensor:
    """Draw uniformly with replacement from 0..limit-1: int64 [b, count] for limits [b, 1]."""
    shape = len(limits), count
    # float32 has too few values to be uniform over a large bank.
    return (torch.rand(shape, dtype=torch.float64, device=limits.device, generator=generator) * limits).long()


def distinct(pools: Tensor, fewest: int, most: int, count: int, generator: Generator | None) -> Tensor:
    """Draw `count` numbers without replacement from 0..pool-1, int64 [b, count], for every pool that holds as many.

    The pools' sizes, int64 [b, 1], lie between `fewest` and `most`, which is at least `count`.
    """
    if fewest > _REJECT_ABOVE * count:
        return _without_repeats(pools, fewest, most, count, generator)
    keys = torch.rand(len(pools), most, device=pools.device, generator=generator)
    keys.masked_fill_(torch.arange(most, device=pools.device) >= pools, 2.0)
    return keys.topk(count, largest=False, sorted=False).indices


def ordering(total: int, length: int, generator: Generator | None, device: torch.device) -> Tensor:
    """Return the first `length` of a random ordering of 0..total-1, int64."""
    if total <= _REJECT_ABOVE * length:
        return torch.randperm(total, device=device, generator=generator)[:length]
    pool = torch.full((1, 1), total, device=device)
    return _without_repeats(pool, total, total, length, generator)[0]


def with_spare(hits: int, misses: float, tries_per_hit: float) -> int:
    """Return how many tries give `hits` hits up to a chance below 1e-20, by Chernoff's bound.

    Args:
        hits: Number of hits needed.
        misses: Expected number of misses until then.
        tries_per_hit: Expected number of tries for the last hit, the most for any.
    """
    return math.ceil(hits + misses + 16 * math.sqrt(misses * tries_per_hit) + 40 * tries_per_hit)


def _without_repeats(pools: Tensor, fewest: int, most: int, count: int, generator: Generator | None) -> Tensor:
    """Return the first `count` distinct numbers of a sequence of draws with replacement; arguments as in `distinct`.

    The sequence is long enough for the smallest pool up to a chance below 1e-20, so nothing waits for the device.
    """
    repeats = -fewest * math.log1p(-count / fewest) - count
    length = with_spare(count, repeats, fewest / (fewest - count))
    draws = below(pools, length, generator)
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
