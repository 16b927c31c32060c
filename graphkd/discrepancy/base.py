"""The base class of all discrepancies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar, Literal

from torch import Tensor

from graphkd.registry import Registry

Over = Literal["entries", "rows"]


class Discrepancy(ABC):
    """Compares the student's relations with the teacher's, without parameters.

    Values and gradients are finite for any finite input, also where both are equal, and for a single row.
    """

    name: ClassVar[str] = ""
    """Name under which it is registered, for messages."""
    takes: ClassVar[Collection[str]] = ("tensors", "matrices", "distributions")
    """The forms of relations (`Relation.form`) that it compares."""
    fewest: ClassVar[int] = 1
    """Smallest number of rows that it can tell apart."""

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the discrepancy of two relations of one shape, float64 [N, N] or [N, N, ...]: a scalar."""


DISCREPANCIES: Registry[Discrepancy] = Registry("discrepancy", "graphkd.discrepancy")


def mean_over(losses: Tensor, over: Over) -> Tensor:
    """Return the mean of losses, [N, ...], over all entries, or over the N rows of the sum of each."""
    return losses.mean() if over == "entries" else losses.flatten(1).sum(1).mean()
