"""What objectives on feature maps share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.errors import UserError, check

Shape = tuple[int, int, int]
"""Channels, height and width of a feature map."""


def check_same_count(name: str, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
    """Check that both networks have equally many feature maps behind the stem, and at least one.

    Args:
        name: The objective's name, for the message.
        student_shapes: Shapes of all the student's features, the stem's first.
        teacher_shapes: Shapes of all the teacher's features, the stem's first.

    Raises:
        UserError: The counts differ or are 0.
    """
    student, teacher = len(student_shapes) - 1, len(teacher_shapes) - 1
    check(
        student == teacher and student >= 1,
        f"objective '{name}': the networks must have equally many feature maps behind the stem, at least 1, "
        f"but the student has {student} and the teacher {teacher} (torchvision's and timm's take names of parts as "
        "their option features)",
    )


def last_map(output: NetworkOutput, name: str, side: str) -> Tensor:
    """Return a network's last feature map, float32 [B, C, H, W].

    Raises:
        UserError: It shows none; the message names the objective and the side.
    """
    check(len(output.features) > 0, f"objective '{name}': it needs a feature map, but the {side}'s network shows none")
    return output.features[-1].float()


def preactivations(output: NetworkOutput, name: str, side: str) -> list[Tensor]:
    """Return the pre-activations of a network's maps, the stem's first, float [B, C, H, W] each.

    Raises:
        UserError: It shows none; the message names the objective and the side.
    """
    if output.preactivations is None:
        raise UserError(f"objective '{name}': it needs pre-activations, but the {side}'s network does not show them")
    return output.preactivations


def smaller_positions(student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> list[int]:
    """Return how many positions each pair of maps has at the smaller one's height and width."""
    pairs = zip(student_shapes, teacher_shapes, strict=True)
    return [min(student[1], teacher[1]) * min(student[2], teacher[2]) for student, teacher in pairs]


def one_position_notes(positions: Sequence[int]) -> list[str]:
    """Return the note of an objective that normalises maps over their positions, where it has maps of one position."""
    single = positions.count(1)
    if not single:
        return []
    return [f"{single} of its {len(positions)} pairs of maps come down to one position, on which it teaches nothing"]


def pooled_to_smaller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller's height and width, the larger one averaged (adaptive average pooling).

    Args:
        a: Float [B, C, H, W].
        b: Float [B, C', H', W'].
    """
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return _pooled(a, size), _pooled(b, size)


def _pooled(map_: Tensor, size: tuple[int, int]) -> Tensor:
    return map_ if map_.shape[2:] == size else F.adaptive_avg_pool2d(map_, size)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm; where a channel has one value, and so no variance, the running statistics stand in."""

    def forward(self, x: Tensor) -> Tensor:
        """Take float [B, C, H, W] to the same shape."""
        if x[:, 0].numel() > 1:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class ConvRegressor(nn.Module):
    """Brings the student's map to the shape of the teacher's: a convolution, BatchNorm, and maybe a ReLU.

    The regressor of FitNets (arXiv 1412.6550, section 2.2) in the form that the CRD benchmark gave it: 1x1 at equal
    size; 3x3 with stride 2 from twice the size; a transposed 4x4 with stride 2 from half the size; from other larger
    sizes a convolution without padding, whose kernel covers the difference.
    """

    def __init__(
        self, student_shape: Shape, teacher_shape: Shape, use_relu: bool = True, what: str = "the regressor"
    ) -> None:
        """Create a regressor.

        Args:
            student_shape: (channels, height, width) of what it takes.
            teacher_shape: (channels, height, width) of what it returns.
            use_relu: Whether a ReLU comes last.
            what: How messages call it, for example "objective 'fitnet': layer 2".

        Raises:
            UserError: No convolution leads from the one size to the other.
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
