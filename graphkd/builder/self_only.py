"""The control without a graph: every sample is its own only neighbour."""

from __future__ import annotations

import torch

from graphkd.builder.base import BUILDERS, GraphBuilder
from graphkd.graph import BatchGraph, Nodes


@BUILDERS.register("self_only")
class SelfOnly(GraphBuilder):
    """Self loops and nothing else."""

    def __init__(self) -> None:
        """Create a builder of graphs without edges between samples."""

    def build(self, nodes: Nodes) -> BatchGraph:
        """Return the graph of self loops (`GraphBuilder.build`)."""
        return BatchGraph.from_neighbours(torch.arange(len(nodes.logits), device=nodes.logits.device)[:, None])
