"""The instance relationship graph: samples as vertices, their distances as edges, and what a layer does to both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch, NetworkOutput
from graphkd.errors import check
from graphkd.objective.base import OBJECTIVES, Objective, Setting, teacher_output
from graphkd.objective.maps import pooled_to_smaller

_ROUNDING = 1e-6
"""A smaller share of two rows' squared lengths counts as no distance between them."""
_SMALLEST_MAXIMUM = 1e-12


@OBJECTIVES.register("irg")
class IRG(Objective):
    """Differences of vertices, edges and transformations of instance relationship graphs (Liu et al., CVPR 2019).

    `vertices` is the mean squared difference of the logits. `edges` is that of the squared distances between samples,
    divided by the largest, averaged over three spaces: the embedding and the last two maps. `transformation` is that of
    each sample's squared distance between these two maps, divided by the batch's largest; the larger map is pooled to
    the smaller, and neighbouring channels are averaged to the smaller number of them.
    """

    name = "irg"
    fewest_maps = 2
    parts = ("vertices", "edges", "transformation")

    def notes(self, setting: Setting) -> Sequence[str]:
        if setting.largest_batch == 1:
            return ["a batch has one sample, so `edges` and `transformation`, relative to the largest, teach nothing"]
        if setting.largest_batch == 2:
            return ["a batch has 2 samples, so `edges`, relative to the largest, teaches nothing"]
        return ()

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        """Return the terms `vertices`, `edges` and `transformation`; raise a `UserError` without two maps."""
        student, teacher = batch.student, teacher_output(batch)
        student_maps, teacher_maps = _last_maps(student, "student"), _last_maps(teacher, "teacher")
        student_spaces, teacher_spaces = (student.embedding, *student_maps), (teacher.embedding, *teacher_maps)
        with torch.autocast(student.logits.device.type, enabled=False):
            edges = [
                F.mse_loss(distances(s.flatten(1)), distances(t.flatten(1)))
                for s, t in zip(student_spaces, teacher_spaces, strict=True)
            ]
            return {
                "vertices": F.mse_loss(student.logits.float(), teacher.logits.float()),
                "edges": torch.stack(edges).mean(),
                "transformation": F.mse_loss(transformation(*student_maps), transformation(*teacher_maps)),
            }


def _last_maps(output: NetworkOutput, side: str) -> tuple[Tensor, Tensor]:
    maps = output.features[-2:]
    check(
        len(maps) == 2,
        f"objective 'irg': it needs two feature maps, but the {side}'s network shows {len(maps)}",
    )
    return maps[0].float(), maps[1].float()


def distances(rows: Tensor) -> Tensor:
    """Return the squared distances between rows, float [B, D], divided by the largest: float32 [B, B]."""
    rows = rows.float()
    rows = rows - rows.mean(0)  # changes no distance, and makes the rounding errors of their differences smaller
    gram = rows @ rows.T
    squares = gram.diagonal()
    sums = squares + squares[:, None]
    squared = sums - 2 * gram
    return _over_largest(torch.where(squared > _ROUNDING * sums, squared, 0))


def transformation(earlier: Tensor, later: Tensor) -> Tensor:
    """Return each sample's squared distance between two maps, divided by the largest.

    Args:
        earlier: Maps, float32 [B, C, H, W].
        later: Maps, float32 [B, C', H', W'].

    Returns:
        Distances between 0 and 1, float32 [B].
    """
    channels = min(earlier.shape[1], later.shape[1])
    one, other = (
        F.adaptive_avg_pool2d(map_.flatten(2), (channels, None)) for map_ in pooled_to_smaller(earlier, later)
    )
    return _over_largest((one - other).square().sum((1, 2)))


def _over_largest(squared: Tensor) -> Tensor:
    return squared / squared.max().clamp_min(_SMALLEST_MAXIMUM)
