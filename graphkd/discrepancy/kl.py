"""The divergence of relations that are distributions."""

from __future__ import annotations

from torch import Tensor

from graphkd.discrepancy.base import DISCREPANCIES, Discrepancy, Over, mean_over
from graphkd.errors import check


@DISCREPANCIES.register("kl")
class KL(Discrepancy):
    """The divergence of the teacher's distributions t from the student's s, the sum of t log((t + eps) / (s + eps))."""

    name = "kl"
    takes = ("distributions",)
    fewest = 2

    def __init__(self, eps: float = 1e-7, over: Over = "rows") -> None:
        """Create a divergence.

        Args:
            eps: What is added to probabilities within the logarithm.
            over: Average over all entries (as `pkt`), or sum each row and average the sums.

        Raises:
            UserError: `eps` is not positive.
        """
        check(eps > 0, f"discrepancy 'kl': eps is {eps}, but must be positive")
        self.eps = eps
        self.over: Over = over

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return mean_over(teacher * ((teacher + self.eps) / (student + self.eps)).log(), self.over)
