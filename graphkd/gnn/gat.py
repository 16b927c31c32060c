"""Graph attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.errors import check
from graphkd.gnn.base import GNNS, DenseGraph, Engine, GraphEncoder
from graphkd.graph import dgl_nn


@GNNS.register("gat")
class GAT(GraphEncoder):
    """GATConv: neighbours weighted by attention, the heads side by side (arXiv 1710.10903)."""

    name = "gat"
    dense_limit = 128

    def __init__(self, in_dim: int, out_dim: int, heads: int = 4, layers: int = 1, engine: Engine = "auto") -> None:
        """Create a GAT encoder.

        Args:
            in_dim: Width of the input embeddings.
            out_dim: Width of the output: heads x width of a head.
            heads: Number of attention heads.
            layers: Number of layers.
            engine: Engine that runs them (`GraphEncoder`).

        Raises:
            UserError: `heads` does not divide `out_dim`, or `layers` is below 1.
        """
        check(heads >= 1, f"graph encoder 'gat': heads is {heads}, but must be at least 1")
        check(
            out_dim % heads == 0,
            f"graph encoder 'gat': out_dim {out_dim} is not a multiple of heads {heads} (heads x head width)",
        )
        self.heads = heads
        super().__init__(in_dim, out_dim, layers, engine)

    def convolution(self, in_dim: int, out_dim: int) -> Any:
        return dgl_nn().GATConv(in_dim, out_dim // self.heads, self.heads, allow_zero_in_degree=True)

    def dense(self, convolution: Any, graph: DenseGraph, x: Tensor) -> Any:
        """Attend by the softmax over the in-neighbours of leaky_relu(a_l . Wx_source + a_r . Wx_target)."""
        projected = convolution.fc(x).view(len(x), self.heads, -1)
        source = (projected * convolution.attn_l).sum(dim=-1)
        target = (projected[: graph.num_targets] * convolution.attn_r).sum(dim=-1)
        scores = F.leaky_relu(target.T[:, :, None] + source.T[:, None, :], convolution.leaky_relu.negative_slope)
        scores = scores.masked_fill(~graph.adjacency, -torch.inf)
        attention = scores.softmax(dim=-1).masked_fill(~graph.adjacency, 0) * graph.weights
        attended = (attention @ projected.transpose(0, 1)).transpose(0, 1).flatten(start_dim=1)
        return graph.close(attended, projected.flatten(start_dim=1)) + convolution.bias
