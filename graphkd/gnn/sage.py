"""GraphSAGE."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.gnn.base import GNNS, DenseGraph, Engine, GraphEncoder
from graphkd.graph import dgl_nn


@GNNS.register("sage")
class SAGE(GraphEncoder):
    """SAGEConv: the sample itself and an aggregate of its neighbours, each with its own map (arXiv 1706.02216)."""

    name = "sage"

    def __init__(
        self, in_dim: int, out_dim: int, aggregator: Literal["mean", "pool", "gcn"] = "mean",
        layers: int = 1, engine: Engine = "auto",
    ) -> None:  # fmt: skip
        """Create a GraphSAGE encoder.

        Args:
            in_dim: Width of the embeddings that come in.
            out_dim: Width of those that go out.
            aggregator: mean; pool (largest entry after a linear map and a ReLU); gcn (mean over the sample and its
                neighbours, one map).
            layers: Number of layers.
            engine: Who runs them (`GraphEncoder`).

        Raises:
            UserError: `layers` is below 1.
        """
        self.aggregator = aggregator
        self.takes_max = aggregator == "pool"
        super().__init__(in_dim, out_dim, layers, engine)

    def convolution(self, in_dim: int, out_dim: int) -> nn.Module:
        """Return a `dgl.nn.SAGEConv`."""
        module: nn.Module = dgl_nn().SAGEConv(in_dim, out_dim, self.aggregator)
        return module

    def dense(self, convolution: Any, graph: DenseGraph, x: Tensor) -> Tensor:
        """Return what `dgl.nn.SAGEConv` computes with this aggregator."""
        out: Tensor
        if self.aggregator == "gcn":
            out = convolution.fc_neigh((graph.sum(x) + x) / (graph.in_degree + 1)) + convolution.bias
        elif self.aggregator == "mean":
            out = convolution.fc_self(x) + convolution.fc_neigh(graph.mean(x))
        else:
            pooled = graph.max(F.relu(convolution.fc_pool(x)))
            out = convolution.fc_self(x) + convolution.fc_neigh(pooled)
        return out
