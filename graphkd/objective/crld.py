"""CRLD: logits of two views of each sample, within a view and across both."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.objective.base import OBJECTIVES, Objective, teacher_output
from graphkd.objective.logits import divergences


@OBJECTIVES.register("crld")
class CRLD(Objective):
    """KD within the weak and the strong view and across them, where the teacher is confident (arXiv 2412.16493).

    `within` is the mean over samples of KD on the weak view plus KD on the strong one, for samples of whose weak view
    the teacher is confident. `cross` is that of KD from the teacher's weak view to the student's strong one plus the
    reverse, for samples of whose strong view it is. Samples that are left out count as zeros.

    The released code draws crop, flip and strength of the strong view's operations anew, and blanks a part of it.
    """

    name = "crld"
    needs_maps = False
    parts = ("within", "cross")
    views = ("weak", "strong")

    def __init__(
        self, temperature: float = 4.0, weak_threshold: float = 0.9, strong_threshold: float = 0.2
    ) -> None:  # fmt: skip
        """Create a CRLD objective; the defaults are those of the released code.

        Args:
            temperature: T, by which the logits are divided.
            weak_threshold: Least confidence of the teacher on the weak view for `within`: its largest probability.
            strong_threshold: Least confidence on the strong view for `cross`.

        Raises:
            UserError: The temperature is not positive, or a threshold is outside [0, 1].
        """
        super().__init__()
        self.check_positive(temperature=temperature)
        self.check_between_0_and_1(weak_threshold=weak_threshold, strong_threshold=strong_threshold)
        self.temperature = temperature
        self.weak_threshold = weak_threshold
        self.strong_threshold = strong_threshold

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        batch = batch.select(self.views)
        student_weak, student_strong = batch.student.logits.chunk(2)
        teacher_weak, teacher_strong = teacher_output(batch).logits.chunk(2)

        def kd(student: Tensor, teacher: Tensor) -> Tensor:
            return divergences(student, teacher, self.temperature)

        within = kd(student_weak, teacher_weak) + kd(student_strong, teacher_strong)
        cross = kd(student_strong, teacher_weak) + kd(student_weak, teacher_strong)
        return {
            "within": (within * (_confidence(teacher_weak) >= self.weak_threshold)).mean(),
            "cross": (cross * (_confidence(teacher_strong) >= self.strong_threshold)).mean(),
        }


def _confidence(logits: Tensor) -> Tensor:
    """Return the largest probability of each row, float32 [B]."""
    return F.softmax(logits.float(), dim=1).amax(1)
