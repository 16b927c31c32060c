"""Cross-entropy with the labels, which needs no teacher."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.errors import check
from graphkd.objective.base import OBJECTIVES, Objective


@OBJECTIVES.register("ce")
class CrossEntropy(Objective):
    """Cross-entropy between the student's logits and the labels, mean over the batch."""

    name = "ce"
    needs_maps = False
    needs_teacher = False

    def __init__(self, label_smoothing: float = 0.0) -> None:
        """Create a cross-entropy objective.

        Args:
            label_smoothing: Share of the target probability that is spread evenly over all classes.

        Raises:
            UserError: `label_smoothing` is outside [0, 1).
        """
        super().__init__()
        check(
            0 <= label_smoothing < 1,
            f"objective 'ce': label_smoothing is {label_smoothing}, but must be at least 0 and below 1",
        )
        self.label_smoothing = label_smoothing

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        logits = batch.student.logits.float()
        return {self.name: F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)}
