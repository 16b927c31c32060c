"""Probabilistic knowledge transfer: the neighbourhoods in the teacher's embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.objective.base import OBJECTIVES, Objective, teacher_output

_EPS = 1e-7


@OBJECTIVES.register("pkt")
class PKT(Objective):
    """Divergence of the teacher's neighbour probabilities from the student's (Passalis & Tefas, arXiv 1803.10837).

    With p the cosine similarities c of the embeddings as (c + 1) / 2, each row divided by its sum (eq. 4 to 6), it is
    the mean over all pairs of p_t log(p_t / p_s).
    """

    name = "pkt"
    needs_maps = False
    is_relational = True

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        student = neighbour_probabilities(batch.student.embedding)
        teacher = neighbour_probabilities(teacher_output(batch).embedding)
        losses = teacher * ((teacher + _EPS) / (student + _EPS)).log()
        return {self.name: losses.mean().float()}


def neighbour_probabilities(embedding: Tensor) -> Tensor:
    """Return the probability with which each row chooses each other one, float [B, D] to float64 [B, B]."""
    # Nearly equal terms cancel out in the loss: float32 would leave a relative error of 1e-5.
    embedding = embedding.double()
    unit: Tensor = embedding / (torch.linalg.vector_norm(embedding, dim=1, keepdim=True) + _EPS)
    similarity = (unit @ unit.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)
