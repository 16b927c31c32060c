"""SKD: KD, and the similarities of a batch's logits, compared by a Mahalanobis distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.discrepancy.mahalanobis import mahalanobis
from graphkd.objective.base import OBJECTIVES, Objective, Setting, teacher_output
from graphkd.objective.logits import divergence, unsure
from graphkd.relation.base import cosines


@OBJECTIVES.register("skd")
class SKD(Objective):
    """KD, and the Mahalanobis distance of the logits' cosine similarities (streamlined KD, CVPR 2026).

    `instance` is KD, `direction` the mean over samples of sqrt(d_i^T (cov(d) + ridge I)^-1 d_i). With G the cosine
    similarities of a batch's logits, divided by the number of classes, [B, B], d_i is row i of G_s - G_t. cov(d) is the
    unbiased covariance of these rows, and gradient flows through it.
    """

    name = "skd"
    needs_maps = False
    parts = ("instance", "direction")

    def __init__(
        self, temperature: float = 4.0, ridge: float = 0.1, mask: Literal["none", "released"] = "none"
    ) -> None:
        """Create an SKD objective.

        Args:
            temperature: T of `instance`, by which the logits are divided.
            ridge: What is added to the diagonal of the covariance in `direction`.
            mask: "released" multiplies `instance` by the share of samples whose confidence, the teacher's largest
                probability, is at most the median, and `direction` by the same share of classes, whose confidence is
                the sum of its probabilities. Both are 1/2 but for ties and odd numbers. "none" leaves the terms.

        Raises:
            UserError: An option is not positive.
        """
        super().__init__()
        self.check_positive(temperature=temperature, ridge=ridge)
        self.temperature = temperature
        self.ridge = ridge
        self.mask = mask

    def notes(self, setting: Setting) -> Sequence[str]:
        if setting.largest_batch > 1:
            return ()
        return ["a batch has one sample, which has no relations to others, so `direction` teaches nothing"]

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        student, teacher = batch.student.logits, teacher_output(batch).logits
        # In float64: the two networks' similarities nearly cancel out.
        rows = (cosines(student.double()) - cosines(teacher.double())) / student.shape[1]
        terms = {
            "instance": divergence(student, teacher, self.temperature),
            "direction": mahalanobis(rows, self.ridge).mean().float(),
        }
        if self.mask == "none":
            return terms
        confidences = teacher.float().softmax(dim=1)
        shares = {"instance": unsure(confidences.amax(1)), "direction": unsure(confidences.sum(0))}
        return {part: term * shares[part].mean() for part, term in terms.items()}
