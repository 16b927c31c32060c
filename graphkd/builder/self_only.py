"""The control without edges between samples."""

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
        return BatchGraph.from_neighbours(torch.arange(len(nodes.logits), device=nodes.logits.device)[:, None])
