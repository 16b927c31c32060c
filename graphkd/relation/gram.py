"""Inner products of samples, or of classes."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from graphkd.relation.base import RELATIONS, Relation, cosines, over_sum


@RELATIONS.register("gram")
class Gram(Relation):
    """The inner product of each pair."""

    name = "gram"

    def __init__(self, normalize: Literal["none", "rows", "cosine", "probabilities"] = "cosine") -> None:
        """Create a relation of inner products.

        Args:
            normalize: `rows` divides each row of the Gram matrix by its norm (as `sp`), `cosine` each product by both
                norms (as `skd`). `probabilities` makes each row of cosines c a distribution, (c + 1) / 2 over its sum
                (as `pkt`).
        """
        self.normalize = normalize
        self.fewest = 1 if normalize == "none" else 2
        self.form = "distributions" if normalize == "probabilities" else "matrices"

    def relate(self, rows: Tensor) -> Tensor:
        if self.normalize == "none":
            return rows @ rows.T
        if self.normalize == "rows":
            return F.normalize(rows @ rows.T, dim=1)
        similarity = cosines(rows)
        return similarity if self.normalize == "cosine" else over_sum((similarity + 1).clamp_min(0) / 2)
