"""Graph convolutional network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from graphkd.gnn.base import GNNS, DenseGraph, Engine, GraphEncoder
from graphkd.graph import dgl_nn


@GNNS.register("gcn")
class GCN(GraphEncoder):
    """GraphConv: one linear map of the degree-normalised sum over the neighbours (arXiv 1609.02907)."""

    name = "gcn"

    def __init__(self, in_dim: int, out_dim: int, layers: int = 1, engine: Engine = "auto") -> None:
        """Create a GCN encoder.

        Args:
            in_dim: Width of the embeddings that come in.
            out_dim: Width of those that go out.
            layers: Number of layers.
            engine: Who runs them (`GraphEncoder`).

        Raises:
            UserError: `layers` is below 1.
        """
        super().__init__(in_dim, out_dim, layers, engine)

    def convolution(self, in_dim: int, out_dim: int) -> nn.Module:
        """Return a `dgl.nn.GraphConv`."""
        module: nn.Module = dgl_nn().GraphConv(in_dim, out_dim, norm="both", allow_zero_in_degree=True)
        return module

    def dense(self, convolution: Any, graph: DenseGraph, x: Tensor) -> Tensor:
        """D_in^-1/2 A D_out^-1/2 x W + b."""
        hop = graph.in_degree.clamp(min=1).rsqrt() * graph.sum(graph.out_degree.clamp(min=1).rsqrt() * x)
        out: Tensor = hop @ convolution.weight + convolution.bias
        return out
