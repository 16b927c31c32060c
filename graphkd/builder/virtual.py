"""Edges between two views: VRM's graph."""

from __future__ import annotations

import torch

from graphkd.builder.base import BUILDERS, GraphBuilder
from graphkd.errors import UserError
from graphkd.graph import BatchGraph, Nodes


@BUILDERS.register("virtual")
class Virtual(GraphBuilder):
    """Connect every sample with the strong views of all samples, its own included (VRM, arXiv 2502.20760).

    Edges within a view are redundant and left out, except self loops. The strong views are support rows of the graph,
    which get no gradient.
    """

    views = ("weak", "strong")

    def build(self, nodes: Nodes) -> BatchGraph:
        """Return the graph, with B support rows."""
        virtual = None if nodes.virtual is None else nodes.virtual.embedding
        if virtual is None:
            raise UserError("graph builder 'virtual' needs the embedding of the nodes' virtual view")
        size = len(nodes.logits)
        own = torch.eye(size, dtype=torch.bool, device=virtual.device)
        adjacency = torch.cat([own, torch.ones_like(own)], dim=1)
        return BatchGraph.from_adjacency(adjacency, virtual.detach(), nodes.indices)
