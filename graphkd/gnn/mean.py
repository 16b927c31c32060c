"""The control without weights: the plain mean over the neighbours."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from graphkd.gnn.base import GNNS, DenseGraph, GraphEncoder
from graphkd.graph import dgl_nn


@GNNS.register("mean")
class Mean(GraphEncoder):
    """The mean over a sample's neighbours, itself included, once per layer; nothing to train."""

    name = "mean"
    keeps_width = True

    def convolution(self, in_dim: int, out_dim: int) -> Any:
        options = {"norm": "right", "weight": False, "bias": False, "allow_zero_in_degree": True}
        return dgl_nn().GraphConv(in_dim, out_dim, **options)

    def dense(self, convolution: Any, graph: DenseGraph, x: Tensor) -> Any:
        """Return D_in^-1 A x."""
        return graph.mean(x)
