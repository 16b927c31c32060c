"""The control without an encoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from graphkd.gnn.base import GNNS, DenseGraph, GraphEncoder, full_precision
from graphkd.graph import BatchGraph


@GNNS.register("none")
class NoEncoder(GraphEncoder):
    """The embeddings themselves, L2-normalised; the graph is ignored."""

    name = "none"
    keeps_width = True

    def __init__(self, in_dim: int, out_dim: int) -> None:
        """Create an encoder that does nothing.

        Args:
            in_dim: Width of the embeddings.
            out_dim: The same.

        Raises:
            UserError: The widths differ.
        """
        super().__init__(in_dim, out_dim, layers=1, engine="dense")

    def convolution(self, in_dim: int, out_dim: int) -> Any:
        return nn.Identity()

    def dense(self, convolution: Any, graph: DenseGraph, x: Tensor) -> Any:
        return x

    def propagate(self, graph: BatchGraph, x: Tensor) -> Tensor:
        return full_precision(x)
