"""Squared differences of relations."""

from __future__ import annotations

from torch import Tensor

from graphkd.discrepancy.base import DISCREPANCIES, Discrepancy, Over, mean_over


@DISCREPANCIES.register("l2")
class L2(Discrepancy):
    """The mean squared difference."""

    name = "l2"

    def __init__(self, over: Over = "entries") -> None:
        """Create a squared difference.

        Args:
            over: Average over all entries (as `sp`), or sum each row and average the sums (as `mlkd`).
        """
        self.over: Over = over

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return mean_over((student - teacher).square(), self.over)
