"""What objectives on class scores share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(teacher / T), softmax(student / T)), mean over rows, with T the temperature.

    Args:
        student: Scores before the softmax, float [B, C].
        teacher: The same of the teacher.
        temperature: T, above 0.

    Returns:
        A float32 scalar.
    """
    mine, theirs = (F.log_softmax(scores.float() / temperature, dim=1) for scores in (student, teacher))
    return temperature**2 * F.kl_div(mine, theirs, reduction="batchmean", log_target=True)
