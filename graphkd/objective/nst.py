"""Neuron selectivity transfer: the channels of both networks as samples of one distribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.objective.base import OBJECTIVES, Objective, Setting, teacher_output
from graphkd.objective.maps import Shape, check_same_count, one_position_notes, pooled_to_smaller, smaller_positions


@OBJECTIVES.register("nst")
class NST(Objective):
    """sum over maps of the squared maximum mean discrepancy between both networks' channels.

    A channel is the vector of its activations over all positions, L2-normalised; the kernel is k(a, b) = (a . b)^2
    (Huang and Wang, arXiv 1707.01219, the polynomial kernel with c = 0, d = 2). Averaged over the batch; the larger map
    is pooled as in the CRD benchmark (arXiv 1910.10699).
    """

    name = "nst"
    fewest_maps = 2

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
        """Create an NST objective.

        Args:
            student_shapes: Shapes of the student's features, the stem's first.
            teacher_shapes: Shapes of the teacher's features, the stem's first.

        Raises:
            UserError: The networks have not equally many maps.
        """
        super().__init__()
        check_same_count(self.name, student_shapes, teacher_shapes)
        self._positions = smaller_positions(student_shapes[1:], teacher_shapes[1:])

    def notes(self, setting: Setting) -> Sequence[str]:
        """Return what will teach nothing (`Objective.notes`)."""
        return one_position_notes(self._positions)

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        """Return the term `nst`."""
        losses: list[Tensor] = []
        for student, teacher in zip(batch.student.features[1:], teacher_output(batch).features[1:], strict=True):
            pair = pooled_to_smaller(student.float(), teacher.float())
            channels = [F.normalize(map_.flatten(2), dim=2) for map_ in pair]
            with torch.autocast(student.device.type, enabled=False):
                losses.append(_discrepancy(channels[0], channels[1]))
        return {self.name: torch.stack(losses).sum()}


def _discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """MMD^2 of channels, float [B, C, P] and [B, C', P], mean over the batch.

    The sum of (a . b)^2 over all a in A and b in B is <A^T A, B^T B>, so MMD^2 is also the squared distance of both
    sides' mean a a^T: the smaller of the [C, C'] and the [P, P] matrices is built.
    """
    if student.shape[2] ** 2 <= student.shape[1] * teacher.shape[1]:
        return (_moment(student) - _moment(teacher)).square().sum((1, 2)).mean()
    return _kernel(student, student) + _kernel(teacher, teacher) - 2 * _kernel(student, teacher)


def _moment(channels: Tensor) -> Tensor:
    return channels.mT @ channels / channels.shape[1]


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.mT).square().mean()
