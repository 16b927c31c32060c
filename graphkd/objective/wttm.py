"""Weighted transformed teacher matching: only the teacher is softened, and samples it is unsure of weigh more."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.objective.base import OBJECTIVES, Objective, teacher_output


@OBJECTIVES.register("wttm")
class WTTM(Objective):
    """KL between the softened teacher and the unsoftened student, weighted by sample (Zheng, Yang, arXiv 2402.11148).

    It is the mean over samples of U KL(q, softmax(student)). With the teacher's probabilities p and the exponent l,
    U = sum_c p_c^l and q_c = p_c^l / U, which is the softmax of the teacher's logits at the temperature 1 / l. There is
    no factor T^2.
    """

    name = "wttm"
    needs_maps = False

    def __init__(self, exponent: float = 0.2) -> None:
        """Create a WTTM objective.

        Args:
            exponent: l, the power to which the teacher's probabilities are raised; the inverse of a temperature. The
                paper chooses it and the weight for each pair of networks.

        Raises:
            UserError: The exponent is not positive.
        """
        super().__init__()
        self.check_positive(exponent=exponent)
        self.exponent = exponent

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        student = F.log_softmax(batch.student.logits.float(), dim=1)
        powers = self.exponent * F.log_softmax(teacher_output(batch).logits.float(), dim=1)  # log p^l
        weights = powers.logsumexp(1).exp()
        divergences = F.kl_div(student, F.log_softmax(powers, dim=1), reduction="none", log_target=True).sum(1)
        return {self.name: (weights * divergences).mean()}
