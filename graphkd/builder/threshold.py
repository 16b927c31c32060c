"""Edges between all samples that are similar enough."""

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
    select,
    self_loops,
)
from graphkd.errors import check
from graphkd.graph import BatchGraph, Nodes


@BUILDERS.register("threshold")
class Threshold(GraphBuilder):
    """Connect all pairs whose similarity reaches tau; symmetric unless capped."""

    def __init__(
        self, tau: float = 0.9, metric: Metric = "softmax_cosine", input: Input = "logits",
        cap: int | None = None, mutual: bool = False,
    ) -> None:  # fmt: skip
        """Create a threshold builder.

        Args:
            tau: Smallest similarity of an edge: the cosine, or 1 / (1 + distance) for `euclidean`.
            metric: How similarity is measured.
            input: Whether logits or embeddings are compared.
            cap: Largest in-degree, self loop included: each row keeps its strongest edges, so the graph need not be
                symmetric. Null for no cap.
            mutual: Keep an edge only where both ends keep it, which makes a capped graph symmetric.

        Raises:
            UserError: The cap is below 1, or tau is above 1, which leaves just self loops.
        """
        check(tau <= 1, f"graph builder 'threshold': tau is {tau}, but no similarity is above 1")
        check(cap is None or cap >= 1, f"graph builder 'threshold': cap is {cap}, but must be null or at least 1")
        self.tau = tau
        self.metric: Metric = metric
        self.input: Input = input
        self.cap = cap
        self.mutual = mutual

    def notes(self, batch_size: int, labels: Tensor) -> Sequence[str]:
        return [f"cap is 1, so {NO_EDGES}"] if self.cap == 1 else ()

    def build(self, nodes: Nodes) -> BatchGraph:
        distance = pairwise_distance(select(nodes, self.input), self.metric)
        distance = torch.minimum(distance, distance.T)  # a matrix product need not be symmetric to the last bit
        similarity = 1 / (1 + distance) if self.metric == "euclidean" else 1 - distance
        adjacency = self_loops(similarity >= self.tau)
        if self.cap is not None:
            adjacency = adjacency & torch.zeros_like(adjacency).scatter_(1, nearest(distance, self.cap), True)
        if self.mutual:
            adjacency = adjacency & adjacency.T
        return BatchGraph.from_adjacency(adjacency)
