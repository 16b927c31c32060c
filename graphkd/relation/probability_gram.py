"""Inner products of predicted probabilities."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from graphkd.errors import check
from graphkd.relation.base import RELATIONS, Relation, over_sum


@RELATIONS.register("probability_gram")
class ProbabilityGram(Relation):
    """The inner product of each pair of samples' (or classes') probabilities p = softmax(z / T) (mlkd, CVPR 2023).

    Between samples it is p p^T, [B, B], and between classes p^T p, [C, C].
    """

    name = "probability_gram"
    needs_logits = True

    def __init__(self, temperature: float = 4.0, normalize: Literal["none", "probabilities"] = "none") -> None:
        """Create a relation of probabilities.

        Args:
            temperature: T, by which the logits are divided.
            normalize: `probabilities` divides each row by its sum, which makes it a distribution.

        Raises:
            UserError: The temperature is not positive.
        """
        check(temperature > 0, f"relation 'probability_gram': temperature is {temperature}, but must be positive")
        self.temperature = temperature
        self.normalize = normalize
        self.fewest = 1 if normalize == "none" else 2
        self.form = "matrices" if normalize == "none" else "distributions"

    def represent(self, outputs: Tensor) -> Tensor:
        return F.softmax(outputs / self.temperature, dim=1)

    def relate(self, rows: Tensor) -> Tensor:
        products = rows @ rows.T
        return products if self.normalize == "none" else over_sum(products)
