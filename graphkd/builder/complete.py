"""The control with all edges."""

from __future__ import annotations

import torch

from graphkd.builder.base import BUILDERS, GraphBuilder
from graphkd.graph import BatchGraph, Nodes


@BUILDERS.register("complete")
class Complete(GraphBuilder):
    """Connect all samples of the batch."""

    def __init__(self) -> None:
        """Create a builder of complete graphs."""

    def build(self, nodes: Nodes) -> BatchGraph:
        size = len(nodes.logits)
        return BatchGraph.from_adjacency(torch.ones(size, size, dtype=torch.bool, device=nodes.logits.device))
