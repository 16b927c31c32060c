"""Cross-entropy with the labels, which needs no teacher."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch, ViewName
from graphkd.errors import check
from graphkd.objective.base import OBJECTIVES, Objective, checked_views


@OBJECTIVES.register("ce")
class CrossEntropy(Objective):
    """Cross-entropy between the student's logits and the labels, mean over the samples and their views."""

    name = "ce"
    needs_maps = False
    needs_teacher = False

    def __init__(self, label_smoothing: float = 0.0, views: tuple[ViewName, ...] = ("weak",)) -> None:
        """Create a cross-entropy objective.

        Args:
            label_smoothing: Share of the target probability that is spread evenly over all classes.
            views: Views of each sample that are classified. Where a paper adds the losses of several, its weight is
                to be multiplied by their number.

        Raises:
            UserError: `label_smoothing` is outside [0, 1), or `views` is empty or names one twice.
        """
        super().__init__()
        check(
            0 <= label_smoothing < 1,
            f"objective 'ce': label_smoothing is {label_smoothing}, but must be at least 0 and below 1",
        )
        self.label_smoothing = label_smoothing
        self.views = checked_views("ce", views)

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        logits = batch.select(self.views).student.logits.float()
        labels = batch.labels.repeat(len(self.views))
        return {self.name: F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}
