"""Logit standardisation: KD that does not prescribe the range of the student's logits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.objective.base import OBJECTIVES, Objective, Setting, teacher_output
from graphkd.objective.logits import divergence

_EPS = 1e-7


@OBJECTIVES.register("lskd")
class LSKD(Objective):
    """KD on standardised logits (Sun et al., arXiv 2403.01427, algorithm 1).

    Each sample's logits z become (z - mean) / (std + 1e-7), with the unbiased standard deviation, before they are
    divided by the temperature.
    """

    name = "lskd"
    needs_maps = False

    def __init__(self, temperature: float = 2.0) -> None:
        """Create an LSKD objective.

        Args:
            temperature: T, by which the standardised logits are divided.

        Raises:
            UserError: The temperature is not positive.
        """
        super().__init__()
        self.check_positive(temperature=temperature)
        self.temperature = temperature

    def notes(self, setting: Setting) -> Sequence[str]:
        return two_class_notes(setting)

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        student, teacher = standardised(batch.student.logits), standardised(teacher_output(batch).logits)
        return {self.name: divergence(student, teacher, self.temperature)}


def two_class_notes(setting: Setting) -> Sequence[str]:
    """Return a note where standardised logits say nothing but which is the largest."""
    if setting.num_classes > 2:
        return ()
    return ["of two classes' logits the standardised ones keep the order alone, so it teaches next to nothing"]


def standardised(logits: Tensor) -> Tensor:
    """Return the z-scores of each row, float [B, C] to float32 [B, C]; zeros for a constant row."""
    logits = logits.float()
    std, mean = (moment[:, None] for moment in (logits.std(1), logits.mean(1)))
    return (logits - mean) / (std + _EPS)
