"""What objectives on logits share: the divergence, and the reliability of pairs of predictions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.errors import check
from graphkd.graph import BatchGraph


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T^2 KL(softmax(teacher / T), softmax(student / T)) of logits, float [B, C]: a float32 mean over rows."""
    mine, theirs = (F.log_softmax(scores.float() / temperature, dim=1) for scores in (student, teacher))
    return temperature**2 * F.kl_div(mine, theirs, reduction="batchmean", log_target=True)


def divergences(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the divergence of each row by itself, float32 [B]."""
    mine, theirs = (F.log_softmax(scores.float() / temperature, dim=1) for scores in (student, teacher))
    return temperature**2 * F.kl_div(mine, theirs, reduction="none", log_target=True).sum(1)


def reliable(targets: Tensor, sources: Tensor, share: float, classes: int) -> Tensor:
    """Return which pairs of predictions are reliable, bool [T, S], from their entropies, float [T] and [S].

    VRM (arXiv 2502.20760) prunes edges by the joint entropy of two predictions. Here they are taken as independent, so
    it is the sum of their entropies. A pair is reliable if it has at most that share of the greatest one, 2 ln C.
    """
    return targets[:, None] + sources <= share * 2 * math.log(classes)


def prune(graph: BatchGraph, targets: Tensor, support: Tensor, share: float, classes: int) -> BatchGraph:
    """Return the graph without its unreliable edges, from the entropies of targets, [T], and support rows, [S]."""
    sources = torch.cat([targets, support])[: graph.num_nodes]
    return graph.keep(reliable(targets, sources, share, classes))


def entropies(logits: Tensor) -> Tensor:
    """Return the entropy of each row's softmax, float [B, C] to float32 [B]."""
    logarithms = F.log_softmax(logits.detach().float(), dim=1)
    return -(logarithms.exp() * logarithms).sum(1)


def check_share(objective: str, prune_unreliable: float | None) -> None:
    """Raise a `UserError` unless an option `prune_unreliable` is None or between 0 and 1."""
    check(
        prune_unreliable is None or 0 < prune_unreliable < 1,
        f"objective '{objective}': prune_unreliable is {prune_unreliable}, but must be null or between 0 and 1",
    )


def unsure(confidences: Tensor) -> Tensor:
    """Return 1 where a confidence is at most the median, else 0, float32 [n]."""
    return (confidences <= confidences.median()).float()
