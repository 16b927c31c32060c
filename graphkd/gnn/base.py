"""The base class of all graph encoders: DGL's modules, run by DGL or as dense matrix products."""

from __future__ import annotations

import contextlib
import functools
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
MAX_CHUNK = 32  # targets at once in a dense max, which compares [targets, nodes, width] entries
_MOST_LAYERS = 1000


class DenseGraph:
    """A graph as matrices, for dense encoders.

    Of N = T + S nodes, the T targets have rows in the matrices; a support row has self loops alone (see
    `BatchGraph.closed`).

    Attributes:
        adjacency: bool [T, N], `adjacency[target, source]`.
        weights: The same in the embeddings' dtype, with edge weights in place of ones.
        is_weighted: Whether the edges have weights.
        num_targets: T.
    """

    def __init__(self, graph: BatchGraph, dtype: torch.dtype) -> None:
        """Create the matrices of a graph, in `dtype`."""
        self.adjacency = graph.adjacency
        self.weights = graph.weighted_adjacency.to(dtype)
        self.is_weighted = graph.weights is not None
        self.num_targets = graph.num_targets

    @functools.cached_property
    def loops(self) -> Tensor:
        """Number of self loops of each support row, [S]."""
        degree = (self.adjacency.sum() / self.num_targets).round().clamp(min=1)
        return degree.to(self.weights.dtype).expand(self.weights.shape[1] - self.num_targets)

    @property
    def in_degree(self) -> Tensor:
        """Number of in-edges of each node, [N, 1]."""
        return self._into(self.adjacency)

    @property
    def out_degree(self) -> Tensor:
        """Number of out-edges of each node, [N, 1]."""
        return self._out_of(self.adjacency)

    @property
    def in_weight(self) -> Tensor:
        """Sum of the weights of the in-edges of each node, [N, 1]."""
        return self._into(self.weights)

    @property
    def out_weight(self) -> Tensor:
        """Sum of the weights of the out-edges of each node, [N, 1]."""
        return self._out_of(self.weights)

    def sum(self, x: Tensor) -> Tensor:
        """Return the weighted sum over the in-neighbours, [N, D] -> [N, D]."""
        total = self.weights @ x
        return total if len(x) == self.num_targets else torch.cat([total, self.loops[:, None] * x[self.num_targets :]])

    def mean(self, x: Tensor) -> Tensor:
        """Return the weighted sum over the in-neighbours divided by their number, [N, D] -> [N, D]."""
        return self.sum(x) / self.in_degree.clamp(min=1)

    def max(self, x: Tensor) -> Tensor:
        """Return the largest weighted entry among the in-neighbours (0 without any), [N, D] -> [N, D].

        Of equal entries the lower index gets the gradient, as in DGL.
        """
        with torch.no_grad():
            chunks = zip(torch.split(self.weights, MAX_CHUNK), torch.split(self.adjacency, MAX_CHUNK), strict=True)
            source = torch.cat([_largest(weights, adjacency, x) for weights, adjacency in chunks])
        largest = x.gather(0, source) * self.weights.gather(1, source)
        return self.close(largest.masked_fill(~self.adjacency.any(dim=1, keepdim=True), 0), x)

    def close(self, targets: Tensor, x: Tensor) -> Tensor:
        """Append the support rows of x, [N, D], to the aggregate of the targets, [T, D]."""
        return torch.cat([targets, x[self.num_targets :]]) if len(x) > self.num_targets else targets

    def _into(self, matrix: Tensor) -> Tensor:
        sums = matrix.sum(dim=1, dtype=self.weights.dtype)
        return torch.cat([sums, self.loops])[:, None]

    def _out_of(self, matrix: Tensor) -> Tensor:
        sums = matrix.sum(dim=0, dtype=self.weights.dtype)
        sums[self.num_targets :] += self.loops
        return sums[:, None]


def _largest(weights: Tensor, adjacency: Tensor, x: Tensor) -> Tensor:
    """Return the index of the source with the largest weighted entry: [t, N] and [N, D] -> int64 [t, D]."""
    messages = weights[:, :, None] * x
    return messages.masked_fill_(~adjacency[:, :, None], -torch.inf).max(dim=1).indices


class GraphEncoder(nn.Module, ABC):
    """A stack of graph convolutions with ReLU between them and an L2-normalised output.

    The convolutions are `dgl.nn` modules, so weights and tensor names are DGL's own. They are run by the engine `dgl`,
    `dense` (the same function from the adjacency, on any device), or `auto`, which takes `dense` for small graphs and
    wherever the installed DGL does not support the device.
    """

    RUNTIME: ClassVar[frozenset[str]] = frozenset({"in_dim", "out_dim"})
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"engine"})
    name: ClassVar[str]
    dense_limit: ClassVar[int] = 512
    """The largest number of nodes for which `auto` runs the dense form (with support rows: targets x nodes)."""
    keeps_width: ClassVar[bool] = False
    """Whether the output must be as wide as the input."""
    takes_max: bool = False
    """Whether convolutions take the largest entry among neighbours (DGL's kernels differ on equal ones)."""

    def __init__(self, in_dim: int, out_dim: int, layers: int = 1, engine: Engine = "auto") -> None:
        """Create a stack of convolutions.

        Args:
            in_dim: Width of the input embeddings.
            out_dim: Width of the output, and between layers.
            layers: Number of convolutions.
            engine: Engine that runs them.

        Raises:
            UserError: `layers` is below 1, or the widths differ where they must be equal.
        """
        super().__init__()
        widths_fit = in_dim == out_dim or not self.keeps_width
        check(widths_fit, f"graph encoder '{self.name}' keeps the width: in_dim {in_dim} is not out_dim {out_dim}")
        check(layers >= 1, f"graph encoder '{self.name}': layers is {layers}, but must be at least 1")
        check(layers <= _MOST_LAYERS, f"graph encoder '{self.name}': layers is above {_MOST_LAYERS}")
        self.in_dim = in_dim
        self.out_dim = out_dim
        self.engine: Engine = engine
        widths = [in_dim] + [out_dim] * layers
        self.convolutions = nn.ModuleList(self.convolution(width, next_width) for width, next_width in pairwise(widths))

    @abstractmethod
    def convolution(self, in_dim: int, out_dim: int) -> Any:
        """Return one `dgl.nn` module."""

    @abstractmethod
    def dense(self, convolution: Any, graph: DenseGraph, x: Tensor) -> Any:
        """Return the module's output, computed from matrices: a tensor [N, out_dim] for x [N, in_dim]."""

    def sparse(self, convolution: nn.Module, graph: Any, x: Tensor) -> Tensor:
        """Return the module's output, computed by DGL on a `DGLGraph`: [N, in_dim] -> [N, out_dim]."""
        weights = graph.edata.get("weight")
        with dgl_max_takes_first() if self.takes_max else contextlib.nullcontext():
            out: Tensor = convolution(graph, x, edge_weight=None if weights is None else weights.to(x.dtype))
        return out.flatten(start_dim=1)

    def forward(self, graph: BatchGraph, x: Tensor) -> Tensor:
        """Return the L2-normalised graph embeddings of the targets, float [T, out_dim].

        Args:
            graph: The graph; support rows get no gradient.
            x: Embeddings of the targets, float [T, in_dim]; half precision is converted to float32.
        """
        return F.normalize(self.propagate(graph, x), dim=1)

    def propagate(self, graph: BatchGraph, x: Tensor) -> Tensor:
        """Return the output before normalisation, float [T, out_dim]."""
        x = full_precision(x)
        if graph.support is not None:
            x = torch.cat([x, graph.support.detach().to(x)])
        # DGL's GAT fails under bf16, and normalised embeddings need float32 anyway.
        with torch.autocast(x.device.type, enabled=False):
            dense = self._runs_dense(graph, x)
            form = DenseGraph(graph, x.dtype) if dense else graph.closed().dgl()
            run = self.dense if dense else self.sparse
            for depth, convolution in enumerate(self.convolutions):
                x = run(convolution, form, F.relu(x) if depth else x)
        return x[: graph.num_targets]

    def _runs_dense(self, graph: BatchGraph, x: Tensor) -> bool:
        size = graph.num_targets * graph.num_nodes
        if self.engine == "dense" or (self.engine == "auto" and size <= self.dense_limit**2):
            return True
        device = x.device.type
        if not dgl_supports(device):
            no_dgl = f"the installed DGL has no support for {device}; use engine=auto or engine=dense"
            check(self.engine == "auto", no_dgl)
            return True
        return len(graph.sources) == 0  # DGL's max goes wrong on a graph without edges


def full_precision(x: Tensor) -> Tensor:
    """Return embeddings in float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


GNNS: Registry[GraphEncoder] = Registry("graph encoder", "graphkd.gnn", GraphEncoder.RUNTIME)
