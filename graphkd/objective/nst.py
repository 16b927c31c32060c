"""Neuron selectivity transfer: the distribution of the channels' activations."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from graphkd.objective.base import OBJECTIVES
from graphkd.objective.maps import NormalisedMaps


@OBJECTIVES.register("nst")
class NST(NormalisedMaps):
    """sum over maps of the squared maximum mean discrepancy between both networks' channels.

    A channel is the vector of its activations over all positions, L2-normalised; the kernel is k(a, b) = (a . b)^2
    (Huang and Wang, arXiv 1707.01219, the polynomial kernel with c = 0, d = 2). Averaged over the batch; the larger map
    is pooled as in the CRD benchmark (arXiv 1910.10699).
    """

    name = "nst"

    def difference(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the squared discrepancy, mean over the batch."""
        student, teacher = (F.normalize(map_.flatten(2), dim=2) for map_ in (student, teacher))
        return _discrepancy(student, teacher)


def _discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared MMD of channels, float [B, C, P] and [B, C', P], mean over the batch.

    The sum of (a . b)^2 over all a in A and b in B is <A^T A, B^T B>, so MMD^2 is also the squared distance between the
    two means of a a^T: of the [C, C'] and the [P, P] matrices the smaller are built.
    """
    if student.shape[2] ** 2 <= student.shape[1] * teacher.shape[1]:
        return (_moment(student) - _moment(teacher)).square().sum((1, 2)).mean()
    return _kernel(student, student) + _kernel(teacher, teacher) - 2 * _kernel(student, teacher)


def _moment(channels: Tensor) -> Tensor:
    return channels.mT @ channels / channels.shape[1]


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.mT).square().mean()
