"""Shared parts of objectives on feature maps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import DistillationBatch, NetworkOutput
from graphkd.errors import UserError, check, counted
from graphkd.objective.base import Objective, Setting, teacher_output

Shape = tuple[int, int, int]
"""Channels, height and width of a feature map."""


def check_same_count(name: str, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
    """Check that both networks have equally many feature maps behind the stem, and at least one.

    Raises:
        UserError: The counts differ or are 0; the message begins with the objective's name.
    """
    student, teacher = len(student_shapes) - 1, len(teacher_shapes) - 1
    check(
        student == teacher and student >= 1,
        f"objective '{name}': the networks must have equally many feature maps behind the stem, at least 1, "
        f"but the student has {student} and the teacher {teacher} (torchvision's and timm's take names of parts as "
        "their option features)",
    )


def preactivations(output: NetworkOutput, name: str, side: str) -> list[Tensor]:
    """Return the pre-activations of a network's maps, the stem's first, float [B, C, H, W] each.

    Raises:
        UserError: It shows none; the message names the objective and the side.
    """
    if output.preactivations is None:
        raise UserError(f"objective '{name}': it needs pre-activations, but the {side}'s network does not show them")
    return output.preactivations


def one_position_notes(student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> list[str]:
    """Return the note of an objective that normalises maps over positions, where pairs are pooled to one position."""
    pairs = list(zip(student_shapes, teacher_shapes, strict=True))
    single = sum(1 in (student[1], teacher[1]) and 1 in (student[2], teacher[2]) for student, teacher in pairs)
    if not single:
        return []
    which = f"{single} of its {counted(len(pairs), 'pair')} of maps"
    return [f"{which} {'comes' if single == 1 else 'come'} down to one position, on which it teaches nothing"]


def pooled_to_smaller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps, [B, C, H, W] and [B, C', H', W'], to the smaller's height and width."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return _pooled(a, size), _pooled(b, size)


def _pooled(map_: Tensor, size: tuple[int, int]) -> Tensor:
    return map_ if map_.shape[2:] == size else F.adaptive_avg_pool2d(map_, size)


class NormalisedMaps(Objective):
    """Base class of objectives that compare pairs of maps behind the stem, normalised over their positions.

    The larger map of a pair is pooled to the smaller; the losses of all pairs are summed.
    """

    fewest_maps = 2

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
        """Create an objective on pairs of maps.

        Args:
            student_shapes: Shapes of the student's features, the stem's first.
            teacher_shapes: Shapes of the teacher's features, the stem's first.

        Raises:
            UserError: The networks have different numbers of maps.
        """
        super().__init__()
        check_same_count(self.name, student_shapes, teacher_shapes)
        self._notes = one_position_notes(student_shapes[1:], teacher_shapes[1:])

    @abstractmethod
    def difference(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of a pair of maps, float32 [B, C, H, W] and [B, C', H, W], outside autocast: a scalar."""

    def notes(self, setting: Setting) -> Sequence[str]:
        return self._notes

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        pairs = zip(batch.student.features[1:], teacher_output(batch).features[1:], strict=True)
        with torch.autocast(batch.labels.device.type, enabled=False):
            losses = [self.difference(*pooled_to_smaller(s.float(), t.float())) for s, t in pairs]
        return {self.name: torch.stack(losses).sum()}


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics where a channel has a single value, which has no variance."""

    def forward(self, x: Tensor) -> Tensor:
        """Take float [B, C, H, W] to the same shape."""
        if x[:, 0].numel() > 1:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class ConvRegressor(nn.Module):
    """Map the student's map to the shape of the teacher's: a convolution, BatchNorm and an optional ReLU.

    The regressor of FitNets (arXiv 1412.6550, section 2.2) as in the CRD benchmark: 1x1 at equal size; 3x3 with
    stride 2 from twice the size; a transposed 4x4 with stride 2 from half the size; from other larger sizes a
    convolution without padding, whose kernel covers the difference.
    """

    def __init__(
        self, student_shape: Shape, teacher_shape: Shape, use_relu: bool = True, what: str = "the regressor"
    ) -> None:
        """Create a regressor.

        Args:
            student_shape: (channels, height, width) of the input.
            teacher_shape: (channels, height, width) of the output.
            use_relu: Whether a ReLU comes last.
            what: Beginning of an error message, for example "objective 'fitnet': layer 2".

        Raises:
            UserError: The teacher's map is larger than the student's, but not twice as large.
        """
        super().__init__()
        self.conv = _convolution(student_shape, teacher_shape, what)
        self.norm = BatchNorm(teacher_shape[0])
        self.use_relu = use_relu

    def forward(self, x: Tensor) -> Tensor:
        """Take float [B, *student_shape] to float32 [B, *teacher_shape], also under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = self.norm(self.conv(x.float()))
        return F.relu(y) if self.use_relu else y


def _convolution(student_shape: Shape, teacher_shape: Shape, what: str) -> nn.Module:
    (inputs, *size), (outputs, *target) = student_shape, teacher_shape
    if size == [2 * side for side in target]:
        return nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    if [2 * side for side in size] == target:
        return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
    kernel = (1 + size[0] - target[0], 1 + size[1] - target[1])
    check(
        min(kernel) >= 1,
        f"{what}: no convolution leads from the student's map of shape {student_shape} to the teacher's of shape "
        f"{teacher_shape}; its height and width must be at least the teacher's, or just half of them",
    )
    return nn.Conv2d(inputs, outputs, kernel, bias=False)
