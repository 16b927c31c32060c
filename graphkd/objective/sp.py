"""Similarity-preserving distillation: which samples of a batch activate alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.objective.base import ALONE, OBJECTIVES, Objective, Setting, teacher_output
from graphkd.objective.maps import last_map


@OBJECTIVES.register("sp")
class SP(Objective):
    """mean over pairs of samples of (g_s - g_t)^2 on the last map (Tung and Mori, arXiv 1907.09682, eq. 1 to 3).

    g = the Gram matrix of the flattened maps, its rows L2-normalised.
    """

    name = "sp"
    fewest_maps = 1

    def __init__(self) -> None:
        """Create an SP objective; it has no options."""
        super().__init__()

    def notes(self, setting: Setting) -> Sequence[str]:
        """Return what will teach nothing (`Objective.notes`)."""
        return [ALONE] if setting.largest_batch == 1 else ()

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        """Return the term `sp`.

        Raises:
            UserError: A network shows no map.
        """
        student = last_map(batch.student, self.name, "student")
        teacher = last_map(teacher_output(batch), self.name, "teacher")
        return {self.name: F.mse_loss(_similarity(student), _similarity(teacher))}


def _similarity(map_: Tensor) -> Tensor:
    """Return the normalised Gram matrix, float32 [B, B]."""
    rows = map_.flatten(1)
    with torch.autocast(rows.device.type, enabled=False):
        return F.normalize(rows @ rows.T, dim=1)
