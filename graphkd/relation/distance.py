"""Distances between samples, or between classes."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from graphkd.relation.base import RELATIONS, Relation

_ROUNDING = 1e-12
"""A smaller share of two rows' squared lengths counts as no distance between them."""
_TOGETHER = 1e-24
"""And so does a smaller squared distance."""


@RELATIONS.register("distance")
class Distance(Relation):
    """The Euclidean distance of each pair."""

    name = "distance"
    fewest = 3

    def __init__(self, normalize: Literal["none", "mean", "max"] = "mean", squared: bool = False) -> None:
        """Create a relation of distances.

        Args:
            normalize: Whether they are divided by the mean of those that are not 0 (as `rkd`), or by the largest (as
                `irg`).
            squared: Whether they are squared first (as `irg`).
        """
        self.normalize = normalize
        self.squared = squared
        self.fewest = 2 if normalize == "none" else 3

    def relate(self, rows: Tensor) -> Tensor:
        squares, apart, _ = geometry(rows)
        distances = squares if self.squared else root(squares, apart)
        if self.normalize == "none":
            return distances
        scale = distances.max() if self.normalize == "max" else distances.sum() / apart.sum().clamp(min=1)
        return distances / torch.where(scale > 0, scale, 1)


class Geometry(NamedTuple):
    """Squared distances of rows, which of them are above 0, and the Gram matrix of the centred rows, all [N, N]."""

    squares: Tensor
    apart: Tensor
    gram: Tensor


def geometry(rows: Tensor) -> Geometry:
    """Return the geometry of rows, float64 [N, D], without a tensor [N, N, D]."""
    rows = rows - rows.mean(0)  # changes no distance, and makes the rounding errors of their differences smaller
    gram = rows @ rows.T
    lengths = gram.diagonal()
    sums = lengths + lengths[:, None]
    squares = sums - 2 * gram
    apart = squares > (_ROUNDING * sums).clamp_min(_TOGETHER)
    return Geometry(torch.where(apart, squares, 0), apart, gram)


def root(squares: Tensor, apart: Tensor) -> Tensor:
    """Return the square roots of those that are apart; 0, with gradient 0, of the others."""
    return torch.where(apart, torch.where(apart, squares, 1).sqrt(), 0)
