"""Relational knowledge distillation: the distances and angles between samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.objective.base import OBJECTIVES, Objective, Setting, teacher_output

_TOGETHER = 1e-12
"""Rows closer than this count as equal: they have neither direction nor gradient."""


class Relations(NamedTuple):
    """Distances and angles between the samples of a batch.

    Attributes:
        distances: Distance of each pair, divided by the mean of those that are not 0, [B, B].
        angles: Cosine of the angle at sample i between j and k, [B, B, B]; 0 where two of them are equal.
    """

    distances: Tensor
    angles: Tensor


@OBJECTIVES.register("rkd")
class RKD(Objective):
    """Smooth L1 differences of pairwise distances and of angles (Park et al., arXiv 1904.05068, eq. 6 and 9)."""

    name = "rkd"
    needs_maps = False

    def __init__(self, distance: float = 25.0, angle: float = 50.0) -> None:
        """Create an RKD objective.

        Args:
            distance: Weight of the B^2 distances.
            angle: Weight of the B^3 angles.

        Raises:
            UserError: A weight is negative.
        """
        super().__init__()
        self.check_at_least(0, distance=distance, angle=angle)
        self.distance = distance
        self.angle = angle

    def notes(self, setting: Setting) -> Sequence[str]:
        found: list[str] = []
        if self.distance == 0 == self.angle:
            found.append("distance and angle are both 0, so it teaches nothing")
        few = f"a batch has {setting.largest_batch} sample{'s' if setting.largest_batch > 1 else ''}"
        if self.distance > 0 and setting.largest_batch < 3:
            found.append(f"{few}, so `distance`, which is relative to the mean, teaches nothing")
        if self.angle > 0 and setting.largest_batch < 3:
            found.append(f"{few}, so `angle`, which takes three, teaches nothing")
        return found

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        student = relations(batch.student.embedding)
        teacher = relations(teacher_output(batch).embedding)
        of_distances = F.smooth_l1_loss(student.distances, teacher.distances)
        of_angles = F.smooth_l1_loss(student.angles, teacher.angles)
        return {self.name: self.distance * of_distances + self.angle * of_angles}


def relations(embedding: Tensor) -> Relations:
    """Return the relations between the rows of a matrix, float [B, D]; in float32."""
    with torch.autocast(embedding.device.type, enabled=False):
        embedding = embedding.float()
        offsets = embedding - embedding[:, None]
        distances = torch.linalg.vector_norm(offsets, dim=2)
        apart = distances > _TOGETHER
        mean = distances.sum() / apart.sum().clamp(min=1)
        directions = offsets * torch.where(apart, 1 / torch.where(apart, distances, 1), 0)[..., None]
        return Relations(distances / torch.where(mean > 0, mean, 1), directions @ directions.mT)
