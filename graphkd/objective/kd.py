"""Knowledge distillation on softened class probabilities."""

from __future__ import annotations

from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.errors import check
from graphkd.objective.base import OBJECTIVES, Objective, teacher_output
from graphkd.objective.logits import divergence


@OBJECTIVES.register("kd")
class KD(Objective):
    """T^2 KL(softmax(teacher / T), softmax(student / T)), mean over samples (Hinton et al., arXiv 1503.02531)."""

    name = "kd"
    needs_maps = False

    def __init__(self, temperature: float = 4.0) -> None:
        """Create a KD objective.

        Args:
            temperature: T, by which the logits are divided.

        Raises:
            UserError: The temperature is not positive.
        """
        super().__init__()
        check(temperature > 0, f"objective 'kd': temperature is {temperature}, but must be positive")
        self.temperature = temperature

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        return {self.name: divergence(batch.student.logits, teacher_output(batch).logits, self.temperature)}
