"""GraphSAGE."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from graphkd.gnn.base import GNNS, DenseGraph, Engine, GraphEncoder
from graphkd.graph import dgl_nn


@GNNS.register("sage")
class SAGE(GraphEncoder):
    """SAGEConv: a sample and the aggregate of its neighbours, each with its own linear map (arXiv 1706.02216)."""

    name = "sage"

    def __init__(
        self, in_dim: int, out_dim: int, aggregator: Literal["mean", "pool", "gcn"] = "mean",
        layers: int = 1, engine: Engine = "auto",
    ) -> None:  # fmt: skip
        """Create a GraphSAGE encoder.

        Args:
            in_dim: Width of the input embeddings.
            out_dim: Width of the output.
            aggregator: mean; pool (largest entry after a linear map and a ReLU); gcn (mean over the sample and its
                neighbours, with one map).
            layers: Number of layers.
            engine: Engine that runs them (`GraphEncoder`).

        Raises:
            UserError: `layers` is below 1.
        """
        self.aggregator = aggregator
        self.takes_max = aggregator == "pool"
        super().__init__(in_dim, out_dim, layers, engine)

    def convolution(self, in_dim: int, out_dim: int) -> Any:
        return dgl_nn().SAGEConv(in_dim, out_dim, self.aggregator)

    def dense(self, convolution: Any, graph: DenseGraph, x: Tensor) -> Any:
        if self.aggregator == "gcn":
            return convolution.fc_neigh((graph.sum(x) + x) / (graph.in_degree + 1)) + convolution.bias
        if self.aggregator == "mean":
            return convolution.fc_self(x) + convolution.fc_neigh(graph.mean(x))
        pooled = graph.max(F.relu(convolution.fc_pool(x)))
        return convolution.fc_self(x) + convolution.fc_neigh(pooled)
