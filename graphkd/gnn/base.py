"""What every graph encoder is: DGL's modules, run by DGL or by dense matrix products."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.errors import check
from graphkd.graph import BatchGraph, dgl_max_takes_first, dgl_supports
from graphkd.registry import Registry

Engine = Literal["auto", "dgl", "dense"]


class DenseGraph:
    """A graph as the matrices that dense encoders multiply with.

    Attributes:
        adjacency: bool [N, N], `adjacency[target, source]`.
        weights: The same in the embeddings' dtype, with edge weights in place of ones.
        is_weighted: Whether the edges have weights.
        in_degree: Number of in-edges of each node, at least 1, [N, 1] in the embeddings' dtype.
    """

    def __init__(self, graph: BatchGraph, dtype: torch.dtype) -> None:
        """The matrices of a graph whose nodes are all targets, in `dtype`."""
        self.adjacency = graph.adjacency
        self.weights = graph.weighted_adjacency.to(dtype)
        self.is_weighted = graph.weights is not None
        self.in_degree = self._degree(1).to(dtype)

    @property
    def out_degree(self) -> Tensor:
        """Number of out-edges of each node, at least 1, [N, 1]."""
        return self._degree(0).to(self.in_degree.dtype)

    def sum(self, x: Tensor) -> Tensor:
        """Weighted sum over the in-neighbours, [N, D] -> [N, D]."""
        return self.weights @ x

    def mean(self, x: Tensor) -> Tensor:
        """Weighted sum over the in-neighbours divided by their number, [N, D] -> [N, D]."""
        return self.sum(x) / self.in_degree

    def max(self, x: Tensor) -> Tensor:
        """Largest weighted entry among the in-neighbours (0 without any), [N, D] -> [N, D].

        Of equal entries the one with the lower index gets the gradient, as in DGL.
        """
        messages = self.weights[:, :, None] * x[None, :, :]
        messages = messages.masked_fill(~self.adjacency[:, :, None], -torch.inf)
        return messages.max(dim=1).values.masked_fill(~self.adjacency.any(dim=1, keepdim=True), 0)

    def _degree(self, dim: int) -> Tensor:
        return self.adjacency.sum(dim=dim).clamp(min=1)[:, None]


class GraphEncoder(nn.Module, ABC):
    """A stack of graph convolutions with a ReLU between them and an L2-normalised output.

    The convolutions are `dgl.nn` modules, so weights and tensor names are DGL's own. `engine` says who runs
    them: `dgl`, `dense` (the same function from the adjacency, on any device), or `auto`, which takes `dense` for small
    graphs and wherever the installed DGL does not know the device.
    """

    RUNTIME: ClassVar[frozenset[str]] = frozenset({"in_dim", "out_dim"})
    name: ClassVar[str]
    dense_limit: ClassVar[int] = 512
    """The largest number of nodes for which `auto` runs the dense form."""
    takes_max: bool = False
    """Whether convolutions take the largest entry among neighbours (DGL's kernels differ on equal ones)."""

    def __init__(self, in_dim: int, out_dim: int, layers: int, engine: Engine) -> None:
        """A stack of `layers` convolutions.

        Args:
            in_dim: Width of the embeddings that come in.
            out_dim: Width of those that go out, and of all between.
            layers: Number of convolutions.
            engine: Who runs them.

        Raises:
            UserError: `layers` is below 1.
        """
        super().__init__()
        check(layers >= 1, f"graph encoder '{self.name}': layers is {layers}, but must be at least 1")
        self.in_dim = in_dim
        self.out_dim = out_dim
        self.engine: Engine = engine
        widths = [in_dim] + [out_dim] * layers
        self.convolutions = nn.ModuleList(
            self.convolution(width, next_width) for width, next_width in pairwise(widths)
        )

    @abstractmethod
    def convolution(self, in_dim: int, out_dim: int) -> nn.Module:
        """One `dgl.nn` module."""

    @abstractmethod
    def dense(self, convolution: Any, graph: DenseGraph, x: Tensor) -> Tensor:
        """What the module computes, from matrices: [N, in_dim] -> [N, out_dim]."""

    def sparse(self, convolution: nn.Module, graph: Any, x: Tensor) -> Tensor:
        """The module run by DGL on a `DGLGraph`: [N, in_dim] -> [N, out_dim]."""
        weights = graph.edata.get("weight")
        with dgl_max_takes_first() if self.takes_max else contextlib.nullcontext():
            out: Tensor = convolution(graph, x, edge_weight=None if weights is None else weights.to(x.dtype))
        return out.flatten(start_dim=1)

    def forward(self, graph: BatchGraph, x: Tensor) -> Tensor:
        """Graph embeddings of the targets, L2-normalised.

        Args:
            graph: The graph, with or without support rows.
            x: Embeddings of the targets, float [T, in_dim]; those in half precision are taken as float32.

        Returns:
            float [T, out_dim]. No gradient reaches the support rows.
        """
        return F.normalize(self.propagate(graph, x), dim=1)

    def propagate(self, graph: BatchGraph, x: Tensor) -> Tensor:
        """The output before normalisation, float [T, out_dim]."""
        x = full_precision(x)
        if graph.support is not None:
            x = torch.cat([x, graph.support.detach().to(x)])
        closed = graph.closed()
        # DGL's GAT fails under bf16, and normalised embeddings need float32 anyway.
        with torch.autocast(x.device.type, enabled=False):
            dense = self._runs_dense(closed, x)
            form = DenseGraph(closed, x.dtype) if dense else closed.dgl()
            run = self.dense if dense else self.sparse
            for depth, convolution in enumerate(self.convolutions):
                x = run(convolution, form, F.relu(x) if depth else x)
        return x[: graph.num_targets]

    def _runs_dense(self, graph: BatchGraph, x: Tensor) -> bool:
        if self.engine == "dense" or (self.engine == "auto" and graph.num_nodes <= self.dense_limit):
            return True
        if not dgl_supports(x.device.type):
            device = x.device.type
            no_dgl = f"the installed DGL has no support for {device}; use engine=auto or engine=dense"
            check(self.engine == "auto", no_dgl)
            return True
        return len(graph.sources) == 0  # DGL's max goes wrong on a graph without edges


def full_precision(x: Tensor) -> Tensor:
    """Embeddings in float32 (float64 stays)."""
    return x if x.dtype == torch.float64 else x.float()


GNNS: Registry[GraphEncoder] = Registry("graph encoder", "graphkd.gnn", GraphEncoder.RUNTIME)
