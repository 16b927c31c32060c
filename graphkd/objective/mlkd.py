"""Multi-level logit distillation: probabilities, and their products between samples and between classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.errors import check
from graphkd.objective.base import OBJECTIVES, Objective, checked_views, teacher_output
from graphkd.objective.logits import divergence, unsure

_FIRST_AS_RELEASED = (2.0, 6.0)
"""Temperatures at which the released code compares the first view where the second one is due."""


@OBJECTIVES.register("mlkd")
class MLKD(Objective):
    """KD at several temperatures, with matrices over samples and classes, on two views (Jin et al., CVPR 2023).

    With p = softmax(z / T), [B, C], the terms are sums over the temperatures T and the views: `instance` is T^2 KL, the
    mean over samples; `batch` is the squared difference of the networks' p p^T, summed, over B; `class` is that of
    p^T p, over C.
    """

    name = "mlkd"
    needs_maps = False
    parts = ("instance", "batch", "class")

    def __init__(
        self,
        temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0),
        mask: Literal["released", "select", "none"] = "released",
        views: tuple[Literal["weak", "strong"], ...] = ("weak", "strong"),
    ) -> None:
        """Create an MLKD objective.

        Args:
            temperatures: Each T, by which the logits are divided.
            mask: How samples and classes of at most median confidence are preferred. The teacher's confidence is its
                largest probability for a sample, and the sum of its probabilities for a class, on the first view.
                "select" leaves out the rows of all others, as in the paper. "released" is what the released code
                does: it sums rows before it masks them, which multiplies a term by the share of rows, about 1/2; of a
                second view there is `instance` alone, without a mask, and at T = 2 and 6 that is the first view's
                once more. "none" leaves out nothing.
            views: Views of each sample; the paper has one, the released code both.

        Raises:
            UserError: There is no temperature, one is not positive, or `views` is empty or names one twice.
        """
        super().__init__()
        check(len(temperatures) > 0, "objective 'mlkd': temperatures is empty, but must name at least one")
        for temperature in temperatures:
            check(temperature > 0, f"objective 'mlkd': temperatures has {temperature}, but each must be positive")
        self.temperatures = tuple(temperatures)
        self.mask = mask
        self.views = checked_views("mlkd", views)

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        batch = batch.select(self.views)
        student, teacher = batch.student.logits.float(), teacher_output(batch).logits.float()
        count = len(self.views)
        first, *others = zip(student.chunk(count), teacher.chunk(count), strict=True)
        confidences = F.softmax(first[1], dim=1)
        of_samples, of_classes = confidences.amax(1), confidences.sum(0)
        with torch.autocast(student.device.type, enabled=False):
            terms = self._terms(*first, of_samples, of_classes)
            for other in others:
                if self.mask == "released":
                    terms["instance"] = terms["instance"] + self._second_as_released(first, other)
                else:
                    more = self._terms(*other, of_samples, of_classes)
                    terms = {part: term + more[part] for part, term in terms.items()}
        return terms

    def _terms(self, student: Tensor, teacher: Tensor, of_samples: Tensor, of_classes: Tensor) -> dict[str, Tensor]:
        """Return the terms of a view, masked by the confidences of samples [B] and classes [C]."""
        levels = [_levels(student, teacher, temperature) for temperature in self.temperatures]
        instance, samples, classes = (torch.stack(rows).sum(0) for rows in zip(*levels, strict=True))
        return {
            "instance": self._mean(instance, of_samples),
            "batch": self._mean(samples, of_samples),
            "class": self._mean(classes, of_classes),
        }

    def _second_as_released(self, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
        """Return `instance` of the second view as the released code has it, a scalar."""
        return sum(
            (divergence(*(first if t in _FIRST_AS_RELEASED else second), t) for t in self.temperatures),
            first[0].new_zeros(()),
        )

    def _mean(self, rows: Tensor, confidences: Tensor) -> Tensor:
        """Return the mean of the losses of all rows, masked by the confidences."""
        if self.mask == "none":
            return rows.mean()
        kept = unsure(confidences)
        return (rows * kept).mean() if self.mask == "select" else rows.mean() * kept.mean()


def _levels(student: Tensor, teacher: Tensor, temperature: float) -> Sequence[Tensor]:
    """Return the losses of each sample's probabilities [B], each row of p p^T [B], and each row of p^T p [C]."""
    mine, theirs = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    p, q = mine.exp(), theirs.exp()
    return (
        temperature**2 * F.kl_div(mine, theirs, reduction="none", log_target=True).sum(1),
        (p @ p.T - q @ q.T).square().sum(1),
        (p.T @ p - q.T @ q).square().sum(1),
    )
