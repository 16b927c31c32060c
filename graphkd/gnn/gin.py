"""Graph isomorphism network."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from graphkd.gnn.base import GNNS, DenseGraph, Engine, GraphEncoder
from graphkd.graph import dgl_nn


@GNNS.register("gin")
class GIN(GraphEncoder):
    """GINConv: one linear map of (1 + eps) x plus the aggregate of the neighbours (arXiv 1810.00826)."""

    name = "gin"

    def __init__(
        self, in_dim: int, out_dim: int, aggregator: Literal["sum", "mean", "max"] = "sum",
        learn_eps: bool = False, layers: int = 1, engine: Engine = "auto",
    ) -> None:  # fmt: skip
        """Create a GIN encoder.

        Args:
            in_dim: Width of the input embeddings.
            out_dim: Width of the output.
            aggregator: How neighbours are aggregated.
            learn_eps: Whether eps, 0 at the start, is trained.
            layers: Number of layers.
            engine: Engine that runs them (`GraphEncoder`).

        Raises:
            UserError: `layers` is below 1.
        """
        self.aggregator = aggregator
        self.learn_eps = learn_eps
        self.takes_max = aggregator == "max"
        super().__init__(in_dim, out_dim, layers, engine)

    def convolution(self, in_dim: int, out_dim: int) -> Any:
        return dgl_nn().GINConv(nn.Linear(in_dim, out_dim), self.aggregator, learn_eps=self.learn_eps)

    def dense(self, convolution: Any, graph: DenseGraph, x: Tensor) -> Any:
        aggregate = {"sum": graph.sum, "mean": graph.mean, "max": graph.max}[self.aggregator]
        return convolution.apply_func((1 + convolution.eps) * x + aggregate(x))
