"""The angle between rows of relations."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkd.discrepancy.base import DISCREPANCIES, Discrepancy

_EPS = 1e-12


@DISCREPANCIES.register("cosine")
class Cosine(Discrepancy):
    """1 - cosine of each row of the student's relations and the teacher's, the mean over rows; 1 for a row of zeros."""

    name = "cosine"
    fewest = 2

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return 1 - (_unit(student.flatten(1)) * _unit(teacher.flatten(1))).sum(1).mean()


def _unit(rows: Tensor) -> Tensor:
    """Return rows of length 1; a row of zeros stays one, with gradient 0."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norms > _EPS, norms, torch.inf)
