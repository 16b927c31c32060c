"""Graphs over one batch of samples, and the one place that imports DGL."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from graphkd.errors import UserError, check, one_line


class BankRows(Protocol):
    """A read-only look at a feature bank: what a graph builder may use of it."""

    @property
    def rows(self) -> Tensor:
        """Banked embeddings, [N, D]; refused where they are spread over several processes."""

    @property
    def labels(self) -> Tensor:
        """Their classes, int32 [N]; negative where a row is unfilled."""

    @property
    def indices(self) -> Tensor | None:
        """Which training sample each row is, int64 [N]; None where row i is sample i."""

    def nearest(self, queries: Tensor, count: int, allowed: Callable[[slice], Tensor]) -> tuple[Tensor, Tensor]:
        """Inner products with the nearest rows that each query may take, and these rows (`BankView.nearest`)."""

    def take(self, rows: Tensor, like: Tensor) -> Tensor:
        """Rows by their place, int64 [S], in the dtype and on the device of `like`: [S, D]."""


@dataclass(frozen=True)
class Nodes:
    """What a graph builder may look at: the samples of one batch as one network sees them.

    Attributes:
        logits: Class scores, float [B, C].
        embedding: Embeddings, float [B, D].
        labels: Classes, int64 [B].
        indices: Positions in the training set, int64 [B].
        bank: The network's own feature bank.
        generator: Source of randomness, on the tensors' device; None means torch's default one.
    """

    logits: Tensor
    embedding: Tensor | None = None
    labels: Tensor | None = None
    indices: Tensor | None = None
    bank: BankRows | None = None
    generator: torch.Generator | None = None


class BatchGraph:
    """A directed graph whose targets are the samples of a batch; edges run source -> target.

    Optional support rows (banked embeddings, for example) stand behind the targets and are sources only.
    The graph is held as it was made (edges, adjacency or neighbour table); the other forms are derived when they
    are first asked for, so that a builder never has to wait for the device.

    Attributes:
        num_targets: Number of targets T.
        support: Embeddings of the support rows, float [S, D], or None.
        weights: Edge weights, float [E], in the order of `sources` and `targets`, or None.
    """

    def __init__(
        self, sources: Tensor, targets: Tensor, num_targets: int, *,
        support: Tensor | None = None, weights: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Create a graph from its edges, in any order.

        Args:
            sources: Source of each edge, int64 [E], in [0, T + S).
            targets: Target of each edge, int64 [E], in [0, T).
            num_targets: Number of targets T.
            support: Embeddings of S support rows, float [S, D].
            weights: Weight of each edge, float [E].
        """
        self.num_targets = num_targets
        self.support = support
        order = torch.argsort(targets * self.num_nodes + sources)
        self.weights = None if weights is None else weights[order]
        self._edges: tuple[Tensor, Tensor] | None = (sources[order], targets[order])
        self._adjacency: Tensor | None = None
        self._neighbours: Tensor | None = None

    @classmethod
    def from_adjacency(cls, adjacency: Tensor, support: Tensor | None = None) -> BatchGraph:
        """Return a graph from `adjacency[target, source]`, bool [T, T + S].

        Raises:
            UserError: The matrix is not boolean or not of that shape.
        """
        rows = 0 if support is None else len(support)
        check(
            adjacency.dtype == torch.bool and adjacency.ndim == 2
            and adjacency.shape[1] == adjacency.shape[0] + rows,
            f"an adjacency must be bool [targets, targets + {rows} support rows],"
            f" not {adjacency.dtype} {list(adjacency.shape)}",
        )  # fmt: skip
        return cls._derived(len(adjacency), support, adjacency=adjacency)

    @classmethod
    def from_neighbours(cls, neighbours: Tensor, support: Tensor | None = None) -> BatchGraph:
        """Return a graph from the in-neighbours of each target, int64 [T, k], distinct within a row."""
        return cls._derived(len(neighbours), support, neighbours=neighbours.sort(dim=1).values)

    @classmethod
    def _derived(
        cls, num_targets: int, support: Tensor | None,
        adjacency: Tensor | None = None, neighbours: Tensor | None = None,
    ) -> BatchGraph:  # fmt: skip
        graph = cls.__new__(cls)
        graph.num_targets, graph.support, graph.weights = num_targets, support, None
        graph._edges, graph._adjacency, graph._neighbours = None, adjacency, neighbours
        return graph

    @property
    def num_nodes(self) -> int:
        """Targets and support rows together, T + S."""
        return self.num_targets + (0 if self.support is None else len(self.support))

    @property
    def sources(self) -> Tensor:
        """Source of each edge, int64 [E], sorted by (target, source)."""
        return self._sorted_edges()[0]

    @property
    def targets(self) -> Tensor:
        """Target of each edge, int64 [E], sorted by (target, source)."""
        return self._sorted_edges()[1]

    @property
    def neighbours(self) -> Tensor | None:
        """In-neighbours of each target, int64 [T, k], where all have equally many by construction."""
        return self._neighbours

    @property
    def adjacency(self) -> Tensor:
        """`adjacency[target, source]`, bool [T, T + S]."""
        if self._adjacency is None:
            held = self._neighbours if self._neighbours is not None else self.sources
            adjacency = torch.zeros(self.num_targets, self.num_nodes, dtype=torch.bool, device=held.device)
            if self._neighbours is not None:
                adjacency.scatter_(1, self._neighbours, True)
            else:
                adjacency[self.targets, self.sources] = True
            self._adjacency = adjacency
        return self._adjacency

    @property
    def weighted_adjacency(self) -> Tensor:
        """The adjacency with each edge's weight in its place, in its dtype (1 in float32 without weights)."""
        if self.weights is None:
            return self.adjacency.float()
        matrix = self.weights.new_zeros(self.num_targets, self.num_nodes)
        return matrix.index_put((self.targets, self.sources), self.weights)

    def closed(self) -> BatchGraph:
        """Return the same graph with its support rows as targets too, each with just its own self loop.

        Encoders of several layers run on this: a support row then passes every layer by itself.
        """
        if self.support is None:
            return self
        loops = torch.arange(self.num_targets, self.num_nodes, device=self.support.device)
        weights = self.weights
        if weights is not None:
            weights = torch.cat([weights, weights.new_ones(len(loops))])
        sources, targets = torch.cat([self.sources, loops]), torch.cat([self.targets, loops])
        return BatchGraph(sources, targets, self.num_nodes, weights=weights)

    def dgl(self) -> Any:
        """Return the graph as a `DGLGraph` with T + S nodes; weights, if any, are `edata["weight"]`."""
        graph = load_dgl().graph((self.sources, self.targets), num_nodes=self.num_nodes)
        if self.weights is not None:
            graph.edata["weight"] = self.weights
        return graph

    @classmethod
    def from_dgl(cls, graph: Any, num_targets: int | None = None, support: Tensor | None = None) -> BatchGraph:
        """Return the way back from `dgl()`; without `num_targets`, every node is a target."""
        sources, targets = graph.edges()
        num_targets = graph.num_nodes() if num_targets is None else num_targets
        weights = graph.edata.get("weight")
        return cls(sources.long(), targets.long(), num_targets, support=support, weights=weights)

    def _sorted_edges(self) -> tuple[Tensor, Tensor]:
        if self._edges is None:
            if self._neighbours is not None:
                rows, k = self._neighbours.shape
                targets = torch.arange(rows, device=self._neighbours.device).repeat_interleave(k)
                self._edges = (self._neighbours.flatten(), targets)
            else:
                targets, sources = self.adjacency.nonzero(as_tuple=True)
                self._edges = (sources, targets)
        return self._edges

    def __repr__(self) -> str:
        support = 0 if self.support is None else len(self.support)
        return f"BatchGraph(targets={self.num_targets}, support={support})"


@functools.cache
def load_dgl() -> ModuleType:
    """Return the `dgl` module, imported on first use.

    DGL insists on a GraphBolt binary that exists for few versions of torch and that graphkd never uses, so that one
    submodule is masked while DGL is imported. A DGL that somebody imported before is used as it is.

    Raises:
        UserError: DGL cannot be imported; the message names the versions.
    """
    if "dgl" in sys.modules:
        return sys.modules["dgl"]
    # Without a backend set, DGL prints advice and writes a file into the home folder.
    os.environ.setdefault("DGLBACKEND", "pytorch")
    mask = sys.modules["dgl.graphbolt"] = ModuleType("dgl.graphbolt")
    try:
        return importlib.import_module("dgl")
    except Exception as error:
        raise UserError(
            f"DGL {_version('dgl')} does not work with torch {_version('torch')} on Python"
            f" {sys.version.split()[0]}: {one_line(error)}; graphkd needs dgl >= 2.1"
        ) from error
    finally:
        if sys.modules.get("dgl.graphbolt") is mask:
            del sys.modules["dgl.graphbolt"]


def dgl_nn() -> Any:
    """DGL's graph convolution modules (`dgl.nn.pytorch`)."""
    load_dgl()
    return importlib.import_module("dgl.nn.pytorch")


@contextlib.contextmanager
def dgl_max_takes_first() -> Iterator[None]:
    """Within it, the first of equal messages gets the gradient of DGL's max (libxsmm takes the last)."""
    dgl = load_dgl()
    was_enabled = dgl.is_libxsmm_enabled()
    dgl.use_libxsmm(False)
    try:
        yield
    finally:
        dgl.use_libxsmm(was_enabled)


@functools.cache
def dgl_supports(device_type: str) -> bool:
    """Return whether the installed DGL can hold a graph on that kind of device (PyPI's wheels know the CPU only)."""
    if device_type == "cpu":
        return True
    try:
        load_dgl().graph(([0], [0])).to(device_type)
    except Exception:
        return False
    return True


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
