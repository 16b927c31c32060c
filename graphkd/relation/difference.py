"""Differences of samples, or of classes."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkd.relation.base import RELATIONS, Relation
from graphkd.relation.distance import geometry


@RELATIONS.register("difference")
class Difference(Relation):
    """The difference of each pair, a vector (the edges of virtual relation matching, ICCV 2025).

    Entry (i, j) is row i minus row j; 0 where they are equal. N rows of width D have N^2 D numbers.
    """

    name = "difference"
    form = "tensors"
    keeps_width = True

    def __init__(self, unit: bool = True) -> None:
        """Create a relation of differences.

        Args:
            unit: Whether each is divided by its length.
        """
        self.unit = unit

    def relate(self, rows: Tensor) -> Tensor:
        offsets = rows[:, None] - rows
        if not self.unit:
            return offsets
        squares, apart, _ = geometry(rows)
        return offsets * torch.where(apart, torch.where(apart, squares, 1).rsqrt(), 0)[..., None]
