"""Similarity-preserving distillation: which samples of a batch activate alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.objective.base import OBJECTIVES, Objective, teacher_output


@OBJECTIVES.register("sp")
class SP(Objective):
    """mean over pairs of samples of (g_s - g_t)^2 on the last map (Tung and Mori, arXiv 1907.09682, eq. 1 to 3).

    g = the Gram matrix of the flattened maps, its rows L2-normalised.
    """

    name = "sp"

    def __init__(self) -> None:
        """An SP objective; it has no options."""
        super().__init__()

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        """The term `sp`."""
        student, teacher = batch.student.features[-1], teacher_output(batch).features[-1]
        return {self.name: F.mse_loss(_similarity(student), _similarity(teacher))}


def _similarity(map_: Tensor) -> Tensor:
    """The normalised Gram matrix, float32 [B, B]."""
    rows = map_.float().flatten(1)
    with torch.autocast(rows.device.type, enabled=False):
        return F.normalize(rows @ rows.T, dim=1)
