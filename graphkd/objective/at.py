"""Attention transfer: the positions at which the teacher's maps are active."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from graphkd.objective.base import OBJECTIVES
from graphkd.objective.maps import NormalisedMaps, Shape


@OBJECTIVES.register("at")
class AT(NormalisedMaps):
    """sum over maps of mean (a_s - a_t)^2, a = the L2-normalised channel mean of |map|^p (arXiv 1612.03928, eq. 2).

    Zagoruyko and Komodakis; the mean over positions and the pooling of the larger map are the CRD benchmark's
    (arXiv 1910.10699).
    """

    name = "at"

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], p: float = 2.0) -> None:
        """Create an AT objective.

        Args:
            student_shapes: Shapes of the student's features, the stem's first.
            teacher_shapes: Shapes of the teacher's features, the stem's first.
            p: Power of the activations; a larger one stresses the most active positions.

        Raises:
            UserError: The power is below 1, or the networks have different numbers of maps.
        """
        super().__init__(student_shapes, teacher_shapes)
        self.check_at_least(1, p=p)
        self.p = p

    def difference(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean squared difference of the attention maps."""
        return F.mse_loss(self._attention(student), self._attention(teacher))

    def _attention(self, map_: Tensor) -> Tensor:
        size = map_ if self.p % 2 == 0 else map_.abs()
        return F.normalize(size.pow(self.p).mean(1).flatten(1), dim=1)
