"""Topology adaptive graph convolution: HKD's own encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphkd.errors import check
from graphkd.gnn.base import GNNS, DenseGraph, Engine, GraphEncoder
from graphkd.graph import dgl_nn


@GNNS.register("tag")
class TAG(GraphEncoder):
    """TAGConv: one linear map of the embeddings after 0 to `hops` normalised hops, side by side (arXiv 1710.10370)."""

    name = "tag"

    def __init__(self, in_dim: int, out_dim: int, hops: int = 1, layers: int = 1, engine: Engine = "auto") -> None:
        """Create a TAG encoder.

        Args:
            in_dim: Width of the input embeddings.
            out_dim: Width of the output.
            hops: Hops of each layer; HKD uses 1.
            layers: Number of layers.
            engine: Engine that runs them (`GraphEncoder`).

        Raises:
            UserError: `hops` is negative or `layers` below 1.
        """
        check(hops >= 0, f"graph encoder 'tag': hops is {hops}, but must be at least 0")
        self.hops = hops
        super().__init__(in_dim, out_dim, layers, engine)

    def convolution(self, in_dim: int, out_dim: int) -> Any:
        return dgl_nn().TAGConv(in_dim, out_dim, k=self.hops)

    def dense(self, convolution: Any, graph: DenseGraph, x: Tensor) -> Any:
        """Return W [x; A'x; A'A'x; ...] with A' = D^-1/2 A D^-1/2.

        As in DGL, both degrees are in-degrees. With edge weights, which must be positive, they are sums of
        weights: out of the source, and into the target.
        """
        source = target = graph.in_degree.clamp(min=1).rsqrt()
        if graph.is_weighted:
            sums = (graph.out_weight, graph.in_weight)
            source, target = (torch.where(total == 0, 1, total).rsqrt() for total in sums)
        hops = [x]
        for _ in range(self.hops):
            hops.append(target * graph.sum(source * hops[-1]))
        return convolution.lin(torch.cat(hops, dim=1))
