"""Angles between samples, or between classes."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkd.relation.base import RELATIONS, Relation
from graphkd.relation.distance import geometry


@RELATIONS.register("angle")
class Angle(Relation):
    """The cosine of the angle at each, between each two others (RKD, arXiv 1904.05068, eq. 8).

    Entry (i, j, k) is that of the angle at i between j and k; 0 where i equals one of them. N rows have N^3 of them.
    """

    name = "angle"
    form = "tensors"
    fewest = 3

    def relate(self, rows: Tensor) -> Tensor:
        squares, apart, gram = geometry(rows)
        # <x_j - x_i, x_k - x_i>
        products = gram[None] - gram[:, :, None] - gram[:, None] + gram.diagonal()[:, None, None]
        inverse = torch.where(apart, torch.where(apart, squares, 1).rsqrt(), 0)
        return products * inverse[:, :, None] * inverse[:, None]
