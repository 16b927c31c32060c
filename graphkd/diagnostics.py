"""Figures that explain graphs: whom they join, and how much two of them agree."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphkd.graph import BatchGraph


class GraphDiagnostics(NamedTuple):
    """Figures of two graphs over the same batch, the student's and the teacher's; self loops do not count.

    Attributes:
        student_homophily: Share of the edges that join samples of one class; NaN without edges.
        teacher_homophily: The same of the teacher's graph.
        overlap: Edges that both graphs have over edges that either has (Jaccard index); NaN without edges.
        student_degree: Mean number of neighbours of a sample.
        teacher_degree: The same of the teacher's graph.
    """

    student_homophily: Tensor
    teacher_homophily: Tensor
    overlap: Tensor
    student_degree: Tensor
    teacher_degree: Tensor


def compare_graphs(student: BatchGraph, teacher: BatchGraph, indices: Tensor, labels: Tensor) -> GraphDiagnostics:
    """Compare the graphs of two networks over one batch.

    An edge is known by the training samples that it joins. So a sample's other views and banked rows are the sample
    itself, and support rows of unknown samples do not count.

    Args:
        student: The student's graph.
        teacher: The teacher's graph.
        indices: Training sample of each target, int64 [T].
        labels: Class of every training sample, [N].

    Returns:
        Scalars in float32.
    """
    (student_homophily, student_degree, ours), (teacher_homophily, teacher_degree, theirs) = (
        _describe(*sample_edges(graph, indices), len(indices), labels) for graph in (student, teacher)
    )
    common = torch.isin(ours, theirs, assume_unique=True).sum()
    overlap = common / (len(ours) + len(theirs) - common)
    return GraphDiagnostics(student_homophily, teacher_homophily, overlap, student_degree, teacher_degree)


def _describe(sources: Tensor, targets: Tensor, samples: int, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return homophily and mean degree of a graph of so many samples, and a number for each distinct edge."""
    homophily = (labels[sources] == labels[targets]).float().mean()
    degree = homophily.new_tensor(len(sources) / samples)
    return homophily, degree, torch.unique(targets * len(labels) + sources)


def sample_edges(graph: BatchGraph, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the training samples at both ends of each edge, sources and targets, int64 [E], without self loops."""
    support = graph.num_nodes - graph.num_targets
    known = indices.new_full((support,), -1) if graph.support_indices is None else graph.support_indices
    sources, targets = torch.cat([indices, known])[graph.sources], indices[graph.targets]
    counts = (sources >= 0) & (sources != targets)
    return sources[counts], targets[counts]
