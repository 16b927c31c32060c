"""The divergence that objectives on logits share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T^2 KL(softmax(teacher / T), softmax(student / T)) of logits, float [B, C]: a float32 mean over rows."""
    mine, theirs = (F.log_softmax(scores.float() / temperature, dim=1) for scores in (student, teacher))
    return temperature**2 * F.kl_div(mine, theirs, reduction="batchmean", log_target=True)


def divergences(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the divergence of each row by itself, float32 [B]."""
    mine, theirs = (F.log_softmax(scores.float() / temperature, dim=1) for scores in (student, teacher))
    return temperature**2 * F.kl_div(mine, theirs, reduction="none", log_target=True).sum(1)
