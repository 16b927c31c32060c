"""Edges only between samples of one class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphkd.builder.base import (
    BUILDERS,
    NO_EDGES,
    GraphBuilder,
    Input,
    Metric,
    nearest,
    pairwise_distance,
    required_labels,
    select,
    self_loops,
)
from graphkd.errors import check
from graphkd.graph import BatchGraph, Nodes

_MOSTLY = 0.9
"""Share of samples without a neighbour from which on a note is given."""


@BUILDERS.register("label_aware")
class LabelAware(GraphBuilder):
    """Connect samples of the same class; a single one has just its self loop."""

    def __init__(self, k: int | None = None, metric: Metric = "softmax_cosine", input: Input = "logits") -> None:
        """Create a label-aware builder.

        Args:
            k: Keep only the k nearest of the same class, the sample itself included; null keeps all of them.
            metric: How distances are measured where k is given.
            input: Whether logits or embeddings are compared where k is given.

        Raises:
            UserError: k is below 1.
        """
        check(k is None or k >= 1, f"graph builder 'label_aware': k is {k}, but must be null or at least 1")
        self.k = k
        self.metric: Metric = metric
        self.input: Input = input

    def notes(self, batch_size: int, labels: Tensor) -> Sequence[str]:
        if self.k == 1:
            return [f"k is 1, so {NO_EDGES}"]
        counts = labels.bincount().double()
        fellows = (batch_size - 1) * (counts - 1).clamp(min=0) / max(1, len(labels) - 1)
        alone = float((counts * (-fellows).exp()).sum() / counts.sum())
        if alone < _MOSTLY:
            return ()
        return [
            f"in batches drawn from all samples, about {100 * alone:.0f} % are alone of their class, without a "
            "neighbour (trainer.samples_per_class=8 draws groups of a class)"
        ]

    def build(self, nodes: Nodes) -> BatchGraph:
        labels = required_labels(nodes, "label_aware")
        adjacency = labels[:, None] == labels[None, :]
        if self.k is not None:
            distance = pairwise_distance(select(nodes, self.input), self.metric)
            chosen = nearest(distance.masked_fill(~adjacency, torch.inf), self.k)
            adjacency = adjacency & torch.zeros_like(adjacency).scatter_(1, chosen, True)
        return BatchGraph.from_adjacency(self_loops(adjacency))
