"""The k nearest neighbours: HKD's own graph."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from graphkd.builder.base import BUILDERS, NO_EDGES, GraphBuilder, Input, Metric, nearest, pairwise_distance, select
from graphkd.errors import check
from graphkd.graph import BatchGraph, Nodes


@BUILDERS.register("knn")
class KNN(GraphBuilder):
    """Each sample's k nearest, itself included (HKD, arXiv 2108.05507, section 3.1)."""

    def __init__(self, k: int = 8, metric: Metric = "softmax_cosine", input: Input = "logits") -> None:
        """Create a kNN builder.

        Args:
            k: In-degree of every node, its self loop included. A smaller batch becomes a complete graph.
            metric: How distances are measured; ties go to the lower index.
            input: Whether logits or embeddings are compared.

        Raises:
            UserError: k is below 1.
        """
        check(k >= 1, f"graph builder 'knn': k is {k}, but must be at least 1")
        self.k = k
        self.metric: Metric = metric
        self.input: Input = input

    @property
    def min_nodes(self) -> int:
        """k, below which in-degrees would be smaller than k."""
        return self.k

    def notes(self, batch_size: int, labels: Tensor) -> Sequence[str]:
        return [f"k is 1, so {NO_EDGES}"] if self.k == 1 else ()

    def build(self, nodes: Nodes) -> BatchGraph:
        return BatchGraph.from_neighbours(nearest(pairwise_distance(select(nodes, self.input), self.metric), self.k))
