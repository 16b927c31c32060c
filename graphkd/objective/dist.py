"""DIST: correlation with the teacher's predictions instead of a match."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.objective.base import OBJECTIVES, Objective, Setting, teacher_output

_EPS = 1e-8


@OBJECTIVES.register("dist")
class DIST(Objective):
    """Pearson correlation with the teacher within samples and within classes (Huang et al., arXiv 2205.10536).

    With p = softmax(z / T) it is T^2 (inter (1 - mean correlation of rows) + intra (1 - mean correlation of columns)),
    eq. 8 to 10, where 1e-8 is added to the product of the norms as in the released code.
    """

    name = "dist"
    needs_maps = False

    def __init__(self, temperature: float = 4.0, inter: float = 1.0, intra: float = 1.0) -> None:
        """Create a DIST objective.

        Args:
            temperature: T, by which the logits are divided.
            inter: Weight of the inter-class relation (each sample's probabilities).
            intra: Weight of the intra-class relation (each class's probabilities over the batch).

        Raises:
            UserError: The temperature is not positive, or a weight is negative.
        """
        super().__init__()
        self.check_positive(temperature=temperature)
        self.check_at_least(0, inter=inter, intra=intra)
        self.temperature = temperature
        self.inter = inter
        self.intra = intra

    def notes(self, setting: Setting) -> Sequence[str]:
        found: list[str] = []
        if self.inter == 0 == self.intra:
            found.append("inter and intra are both 0, so it teaches nothing")
        if self.inter > 0 and setting.num_classes <= 2:
            found.append("two classes' probabilities always correlate by 1 or -1, so `inter` teaches next to nothing")
        if self.intra > 0 and setting.largest_batch <= 2:
            found.append("two samples, and no batch has more, always correlate by 1 or -1, so `intra` teaches nothing")
        return found

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        student = F.softmax(batch.student.logits.float() / self.temperature, dim=1)
        teacher = F.softmax(teacher_output(batch).logits.float() / self.temperature, dim=1)
        inter, intra = (1 - correlation(student, teacher, dim).mean() for dim in (1, 0))
        return {self.name: self.temperature**2 * (self.inter * inter + self.intra * intra)}


def correlation(one: Tensor, other: Tensor, dim: int) -> Tensor:
    """Return Pearson's correlation of two matrices along a dimension; 0, with finite gradient, if one is constant."""
    one, other = one - one.mean(dim, keepdim=True), other - other.mean(dim, keepdim=True)
    norms: Tensor = torch.linalg.vector_norm(one, dim=dim) * torch.linalg.vector_norm(other, dim=dim)
    return (one * other).sum(dim) / (norms + _EPS)
