"""Decoupled knowledge distillation: the two halves of KD, each with its own weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.objective.base import OBJECTIVES, Objective, Setting, teacher_output
from graphkd.objective.logits import divergence


@OBJECTIVES.register("dkd")
class DKD(Objective):
    """alpha TCKD + beta NCKD, growing linearly over the first epochs (Zhao et al., arXiv 2203.08679, eq. 7).

    TCKD is KD on the probabilities of the target class and of all others together, NCKD is KD among the other classes;
    both with T^2. For NCKD the target is left out, which equals the released code's subtraction of 1000 from its logit.
    """

    name = "dkd"
    needs_maps = False

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, ramp_epochs: int = 20) -> None:
        """Create a DKD objective.

        Args:
            alpha: Weight of TCKD, the target class.
            beta: Weight of NCKD, the other classes.
            temperature: T, by which the logits are divided.
            ramp_epochs: Epochs over which the objective grows from 1 / `ramp_epochs` to its full size; 0 for none.

        Raises:
            UserError: A weight or `ramp_epochs` is negative, or the temperature is not positive.
        """
        super().__init__()
        self.check_at_least(0, alpha=alpha, beta=beta, ramp_epochs=ramp_epochs)
        self.check_positive(temperature=temperature)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.ramp_epochs = ramp_epochs

    def notes(self, setting: Setting) -> Sequence[str]:
        if self.alpha == 0 == self.beta:
            return ["alpha and beta are both 0, so it teaches nothing"]
        if self.beta > 0 and setting.num_classes <= 2:
            return ["beside the target there is one class only, so NCKD (`beta`) teaches nothing"]
        return ()

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        student, student_others = self._decoupled(batch.student.logits, batch.labels)
        teacher, teacher_others = self._decoupled(teacher_output(batch).logits, batch.labels)
        of_target = self.temperature**2 * divergence(student, teacher)
        of_others = divergence(student_others, teacher_others, self.temperature)
        ramp = min(1.0, (batch.progress.epoch + 1) / max(1, self.ramp_epochs))
        return {self.name: ramp * (self.alpha * of_target + self.beta * of_others)}

    def _decoupled(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores of the target and of all others together, [B, 2], and the others' logits, [B, C - 1]."""
        logits, target = logits.float(), labels[:, None]
        others = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
        other_logits = logits.gather(1, others + (others >= target))
        together = (other_logits / self.temperature).logsumexp(1, keepdim=True)
        return torch.cat([logits.gather(1, target) / self.temperature, together], dim=1), other_logits
