"""The control without weights: the plain mean over the neighbours."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from graphkd.errors import check
from graphkd.gnn.base import GNNS, DenseGraph, Engine, GraphEncoder
from graphkd.graph import dgl_nn


@GNNS.register("mean")
class Mean(GraphEncoder):
    """The mean of a sample's neighbours, itself included; nothing to train."""

    name = "mean"

    def __init__(self, in_dim: int, out_dim: int, layers: int = 1, engine: Engine = "auto") -> None:
        """Create a mean encoder.

        Args:
            in_dim: Width of the embeddings that come in.
            out_dim: The same.
            layers: How many times the mean is taken.
            engine: Who runs it (`GraphEncoder`).

        Raises:
            UserError: The widths differ, or `layers` is below 1.
        """
        check(in_dim == out_dim, f"graph encoder 'mean' keeps the width: in_dim {in_dim} is not out_dim {out_dim}")
        super().__init__(in_dim, out_dim, layers, engine)

    def convolution(self, in_dim: int, out_dim: int) -> nn.Module:
        """Return a `dgl.nn.GraphConv` without weights."""
        module: nn.Module = dgl_nn().GraphConv(
            in_dim, out_dim, norm="right", weight=False, bias=False, allow_zero_in_degree=True
        )
        return module

    def dense(self, convolution: Any, graph: DenseGraph, x: Tensor) -> Tensor:
        """D_in^-1 A x."""
        return graph.mean(x)
