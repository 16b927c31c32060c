"""Huber's loss of relations."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from graphkd.discrepancy.base import DISCREPANCIES, Discrepancy, Over, mean_over
from graphkd.errors import check


@DISCREPANCIES.register("huber")
class Huber(Discrepancy):
    """Half the squared difference, which goes on linearly beyond delta."""

    name = "huber"

    def __init__(self, delta: float = 1.0, over: Over = "entries") -> None:
        """Create a Huber loss.

        Args:
            delta: The difference at which it becomes linear; 1 is the smooth L1 loss (as `rkd`).
            over: Average over all entries, or sum each row and average the sums.

        Raises:
            UserError: `delta` is not positive.
        """
        check(delta > 0, f"discrepancy 'huber': delta is {delta}, but must be positive")
        self.delta = delta
        self.over: Over = over

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return mean_over(F.huber_loss(student, teacher, reduction="none", delta=self.delta), self.over)
