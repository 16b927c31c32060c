"""Graph convolutional network."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from graphkd.gnn.base import GNNS, DenseGraph, GraphEncoder
from graphkd.graph import dgl_nn


@GNNS.register("gcn")
class GCN(GraphEncoder):
    """GraphConv: one linear map of the degree-normalised sum over the neighbours (arXiv 1609.02907)."""

    name = "gcn"

    def convolution(self, in_dim: int, out_dim: int) -> Any:
        return dgl_nn().GraphConv(in_dim, out_dim, norm="both", allow_zero_in_degree=True)

    def dense(self, convolution: Any, graph: DenseGraph, x: Tensor) -> Any:
        """Return D_in^-1/2 A D_out^-1/2 x W + b."""
        hop = graph.in_degree.clamp(min=1).rsqrt() * graph.sum(graph.out_degree.clamp(min=1).rsqrt() * x)
        return hop @ convolution.weight + convolution.bias
