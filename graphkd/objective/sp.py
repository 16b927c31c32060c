"""Similarity-preserving distillation: which samples of a batch activate alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch, NetworkOutput
from graphkd.errors import check
from graphkd.objective.base import OBJECTIVES, Objective, teacher_output


@OBJECTIVES.register("sp")
class SP(Objective):
    """mean over pairs of samples of (g_s - g_t)^2 on the last map (Tung and Mori, arXiv 1907.09682, eq. 1 to 3).

    g = the Gram matrix of the flattened maps, its rows L2-normalised.
    """

    name = "sp"
    fewest_maps = 1
    is_relational = True

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        student, teacher = _similarity(batch.student, "student"), _similarity(teacher_output(batch), "teacher")
        return {self.name: F.mse_loss(student, teacher)}


def _similarity(output: NetworkOutput, side: str) -> Tensor:
    """Return the normalised Gram matrix of the last maps, float32 [B, B]."""
    check(len(output.features) > 0, f"objective 'sp': it needs a feature map, but the {side}'s network shows none")
    rows = output.features[-1].float().flatten(1)
    with torch.autocast(rows.device.type, enabled=False):
        return F.normalize(rows @ rows.T, dim=1)
