"""The control without an encoder: a sample's embedding stays as it is."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from graphkd.errors import check
from graphkd.gnn.base import GNNS, DenseGraph, GraphEncoder, full_precision
from graphkd.graph import BatchGraph


@GNNS.register("none")
class NoEncoder(GraphEncoder):
    """The embeddings themselves, L2-normalised; the graph is not looked at."""

    name = "none"

    def __init__(self, in_dim: int, out_dim: int) -> None:
        """Create an encoder that does nothing.

        Args:
            in_dim: Width of the embeddings that come in.
            out_dim: The same.

        Raises:
            UserError: The widths differ.
        """
        check(in_dim == out_dim, f"graph encoder 'none' keeps the width: in_dim {in_dim} is not out_dim {out_dim}")
        super().__init__(in_dim, out_dim, layers=1, engine="dense")

    def convolution(self, in_dim: int, out_dim: int) -> nn.Module:
        """Return the identity."""
        return nn.Identity()

    def dense(self, convolution: Any, graph: DenseGraph, x: Tensor) -> Tensor:
        """Return the input."""
        return x

    def propagate(self, graph: BatchGraph, x: Tensor) -> Tensor:
        """Return the embeddings as they came, float [T, in_dim]."""
        return full_precision(x)
