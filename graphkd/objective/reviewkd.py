"""ReviewKD: each level of the teacher taught to a fusion of the student's level and its deeper ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import DistillationBatch
from graphkd.objective.base import OBJECTIVES, Objective, teacher_output
from graphkd.objective.maps import BatchNorm, Shape, check_same_count, preactivations

_LARGEST_WIDTH = 512


@OBJECTIVES.register("reviewkd")
class ReviewKD(Objective):
    """sum over levels of HCL(fused student level, teacher level) (Chen et al., arXiv 2104.09044).

    The levels are the maps and the embedding, a map of size 1. From the deepest up, each level of the student is fused
    with the result of the deeper ones (ABF, figure 3a). HCL (figure 3b) is the MSE of the maps and of the maps pooled
    to sizes 4, 2 and 1. The loss grows over the first epochs.

    As in the released code, the teacher's maps are those before their last ReLU and the student's those after it.
    The teacher is in eval mode, while the first release left it in training mode.
    """

    name = "reviewkd"
    revision = 2  # since the teacher's maps are those before their ReLU
    fewest_maps = 2
    needs_preactivations = frozenset({"teacher"})

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        student_shapes: Sequence[Shape],
        teacher_shapes: Sequence[Shape],
        width: int | None = None,
        ramp_epochs: int = 20,
    ) -> None:
        """Create a ReviewKD objective.

        Args:
            student_dim: Width of the student's embedding.
            teacher_dim: Width of the teacher's.
            student_shapes: Shapes of the student's features, the stem's first.
            teacher_shapes: Shapes of the teacher's features, the stem's first.
            width: Channels of the fused levels; None for the released code's choice, the width of the student's
                embedding, at most 512.
            ramp_epochs: Number of epochs in which the loss grows linearly to its full size.

        Raises:
            UserError: An option is out of range, or the networks have different numbers of maps.
        """
        super().__init__()
        width = min(student_dim, _LARGEST_WIDTH) if width is None else width
        self.check_at_least(1, width=width, ramp_epochs=ramp_epochs)
        check_same_count(self.name, student_shapes, teacher_shapes)
        students, teachers = [*student_shapes[1:], (student_dim, 1, 1)], [*teacher_shapes[1:], (teacher_dim, 1, 1)]
        deepest = len(students) - 1
        self.fusions = nn.ModuleList(
            _Fusion(student[0], width, teacher, has_deeper=level < deepest)
            for level, (student, teacher) in enumerate(zip(students, teachers, strict=True))
        )
        self.ramp_epochs = ramp_epochs

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        teacher_side = teacher_output(batch)
        students = _levels(batch.student.features, batch.student.embedding)
        teachers = _levels(preactivations(teacher_side, self.name, "teacher"), teacher_side.embedding)
        losses: list[Tensor] = []
        deeper: Tensor | None = None
        with torch.autocast(batch.student.logits.device.type, enabled=False):
            for fusion, student, teacher in reversed(list(zip(self.fusions, students, teachers, strict=True))):
                fused, deeper = fusion(student, deeper)
                losses.append(_hierarchical(fused, teacher))
        ramp = min(1.0, (batch.progress.epoch + 1) / self.ramp_epochs)
        return {self.name: ramp * torch.stack(losses).sum()}


class _Fusion(nn.Module):
    """ABF: mix a level with the deeper ones, by an attention map for each, and map it to the teacher's shape."""

    def __init__(self, inputs: int, width: int, teacher_shape: Shape, has_deeper: bool) -> None:
        super().__init__()
        outputs, *self.size = teacher_shape
        self.reduce = nn.Sequential(_convolution(inputs, width, 1), BatchNorm(width))
        self.attention = nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid()) if has_deeper else None
        self.expand = nn.Sequential(_convolution(width, outputs, 3), BatchNorm(outputs))

    def forward(self, x: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the level in the teacher's shape, and the mix for the next, less deep level.

        Args:
            x: The student's level, float32 [B, inputs, H, W].
            deeper: Mix of the deeper levels, float32 [B, width, H', W']; None at the deepest.
        """
        mixed: Tensor = self.reduce(x)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, mixed.shape[2:], mode="nearest")
            own, others = self.attention(torch.cat([mixed, deeper], dim=1)).split(1, dim=1)
            mixed = own * mixed + others * deeper
        mixed = F.interpolate(mixed, self.size, mode="nearest")
        return self.expand(mixed), mixed


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)  # the released code's
    return convolution


def _levels(maps: Sequence[Tensor], embedding: Tensor) -> list[Tensor]:
    return [level.float() for level in (*maps[1:], embedding[:, :, None, None])]


def _hierarchical(student: Tensor, teacher: Tensor) -> Tensor:
    """Return HCL: the MSE of the maps and of them pooled to 4, 2 and 1 where smaller, weighted 1, 1/2, ... of sum 1."""
    loss, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for size in (4, 2, 1):
        if size < min(teacher.shape[2:]):
            weight /= 2
            total += weight
            pooled = F.adaptive_avg_pool2d(student, size)
            loss = loss + weight * F.mse_loss(pooled, F.adaptive_avg_pool2d(teacher, size))
    return loss / total
