"""The control with random edges, as many as kNN has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphkd.builder.base import BUILDERS, NO_EDGES, GraphBuilder, nearest
from graphkd.errors import check
from graphkd.graph import BatchGraph, Nodes


@BUILDERS.register("random")
class Random(GraphBuilder):
    """Each sample's self loop and k - 1 other samples, drawn for every batch from the run's generator."""

    def __init__(self, k: int = 8) -> None:
        """Create a builder of random graphs.

        Args:
            k: In-degree of every node, its self loop included. A smaller batch becomes a complete graph.

        Raises:
            UserError: k is below 1.
        """
        check(k >= 1, f"graph builder 'random': k is {k}, but must be at least 1")
        self.k = k

    @property
    def min_nodes(self) -> int:
        """k, as for kNN, whose control this is."""
        return self.k

    def notes(self, batch_size: int, labels: Tensor) -> Sequence[str]:
        return [f"k is 1, so {NO_EDGES}"] if self.k == 1 else ()

    def build(self, nodes: Nodes) -> BatchGraph:
        size, device = len(nodes.logits), nodes.logits.device
        distance = torch.rand(size, size, generator=nodes.generator, device=device)
        return BatchGraph.from_neighbours(nearest(distance, self.k))
