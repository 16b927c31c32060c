"""Knowledge distillation on softened class probabilities."""

from __future__ import annotations

from torch import Tensor

from graphkd.batch import DistillationBatch, ViewName
from graphkd.objective.base import OBJECTIVES, Objective, checked_views, teacher_output
from graphkd.objective.logits import divergence


@OBJECTIVES.register("kd")
class KD(Objective):
    """T^2 KL(softmax(teacher / T), softmax(student / T)), mean over samples and their views (arXiv 1503.02531)."""

    name = "kd"
    needs_maps = False

    def __init__(self, temperature: float = 4.0, views: tuple[ViewName, ...] = ("weak",)) -> None:
        """Create a KD objective.

        Args:
            temperature: T, by which the logits are divided.
            views: Views of each sample for which the networks are compared, each with itself.

        Raises:
            UserError: The temperature is not positive, or `views` is empty or names one twice.
        """
        super().__init__()
        self.check_positive(temperature=temperature)
        self.temperature = temperature
        self.views = checked_views("kd", views)

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        batch = batch.select(self.views)
        return {self.name: divergence(batch.student.logits, teacher_output(batch).logits, self.temperature)}
