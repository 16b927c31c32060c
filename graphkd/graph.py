"""Graphs over a batch of samples, and the only imports of DGL."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from graphkd.errors import UserError, check, one_line


class BankRows(Protocol):
    """A read-only view of a feature bank, for graph builders (`BankView`)."""

    @property
    def rows(self) -> Tensor:
        """Banked embeddings, [N, D]; a `UserError` where the bank is sharded."""

    @property
    def labels(self) -> Tensor:
        """Their classes, int32 [N]; negative where a row is unfilled."""

    @property
    def indices(self) -> Tensor | None:
        """Training sample of each row, int64 [N]; None where row i is sample i."""

    def nearest(self, queries: Tensor, count: int, forbid: Callable[[Tensor, slice], None]) -> tuple[Tensor, Tensor]:
        """Return inner products with the nearest rows that are not forbidden, and these rows (`BankView.nearest`)."""

    def take(self, rows: Tensor, like: Tensor) -> Tensor:
        """Return rows by their place, int64 [S] to [S, D], in the dtype and on the device of `like`."""


@dataclass(frozen=True)
class Nodes:
    """The input of graph builders: the samples of a batch as one network sees them.

    Attributes:
        logits: Class scores, float [B, C].
        embedding: Embeddings, float [B, D].
        labels: Classes, int64 [B].
        indices: Positions in the training set, int64 [B].
        bank: The network's own feature bank.
        generator: Random generator on the tensors' device; None for torch's default.
        virtual: The same samples in another view, for builders that look at two (`GraphBuilder.views`).
    """

    logits: Tensor
    embedding: Tensor | None = None
    labels: Tensor | None = None
    indices: Tensor | None = None
    bank: BankRows | None = None
    generator: torch.Generator | None = None
    virtual: Nodes | None = None


class BatchGraph:
    """A directed graph whose targets are the samples of a batch; edges run source -> target.

    Optional support rows (such as banked embeddings) come behind the targets and are sources only. The graph is stored
    in the form it was made from (edges, adjacency or neighbour table); other forms are derived on first use, so that a
    builder never waits for the device.

    Attributes:
        num_targets: Number of targets T.
        support: Embeddings of the support rows, float [S, D], or None.
        support_indices: Training sample of each support row, int64 [S], where known; only diagnostics use it.
        weights: Edge weights, float [E], in the order of `sources` and `targets`, or None.
        neighbours: In-neighbours of each target, int64 [T, k], if the graph was made from them.
    """

    neighbours: Tensor | None = None
    weights: Tensor | None = None
    support_indices: Tensor | None = None

    def __init__(
        self, sources: Tensor, targets: Tensor, num_targets: int, *,
        support: Tensor | None = None, support_indices: Tensor | None = None, weights: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Create a graph from its edges, in any order.

        Args:
            sources: Source of each edge, int64 [E], in [0, T + S).
            targets: Target of each edge, int64 [E], in [0, T).
            num_targets: Number of targets T.
            support: Embeddings of S support rows, float [S, D].
            support_indices: Their training samples, int64 [S].
            weights: Weight of each edge, float [E].
        """
        self.num_targets = num_targets
        self.support, self.support_indices = support, support_indices
        order = torch.argsort(targets * self.num_nodes + sources)
        self.weights = None if weights is None else weights[order]
        self._edges = (sources[order], targets[order])

    @classmethod
    def from_adjacency(
        cls, adjacency: Tensor, support: Tensor | None = None, support_indices: Tensor | None = None
    ) -> BatchGraph:
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
        graph = cls.__new__(cls)
        graph.num_targets, graph.support, graph.adjacency = len(adjacency), support, adjacency
        graph.support_indices = support_indices
        return graph

    @classmethod
    def from_neighbours(cls, neighbours: Tensor, support: Tensor | None = None) -> BatchGraph:
        """Return a graph from the in-neighbours of each target, int64 [T, k], distinct within a row."""
        graph = cls.__new__(cls)
        graph.num_targets, graph.support, graph.neighbours = len(neighbours), support, neighbours.sort(dim=1).values
        return graph

    @property
    def num_nodes(self) -> int:
        """Targets and support rows together, T + S."""
        return self.num_targets + (0 if self.support is None else len(self.support))

    @property
    def sources(self) -> Tensor:
        """Source of each edge, int64 [E], sorted by (target, source)."""
        return self._edges[0]

    @property
    def targets(self) -> Tensor:
        """Target of each edge, int64 [E], sorted by (target, source)."""
        return self._edges[1]

    @functools.cached_property
    def adjacency(self) -> Tensor:
        """`adjacency[target, source]`, bool [T, T + S]."""
        stored = self.sources if self.neighbours is None else self.neighbours
        adjacency = torch.zeros(self.num_targets, self.num_nodes, dtype=torch.bool, device=stored.device)
        if self.neighbours is not None:
            return adjacency.scatter_(1, self.neighbours, True)
        adjacency[self.targets, self.sources] = True
        return adjacency

    @property
    def weighted_adjacency(self) -> Tensor:
        """The edges' weights in the places of the adjacency, in their dtype (1 in float32 without weights)."""
        if self.weights is None:
            return self.adjacency.float()
        matrix = self.weights.new_zeros(self.num_targets, self.num_nodes)
        return matrix.index_put((self.targets, self.sources), self.weights)

    def keep(self, kept: Tensor) -> BatchGraph:
        """Return the graph without the edges that are False in `kept`, bool [T, T + S]; self loops stay."""
        kept = kept | torch.eye(*kept.shape, dtype=torch.bool, device=kept.device)
        if self.weights is None:
            return BatchGraph.from_adjacency(self.adjacency & kept, self.support, self.support_indices)
        stay = kept[self.targets, self.sources]
        return BatchGraph(
            self.sources[stay], self.targets[stay], self.num_targets,
            support=self.support, support_indices=self.support_indices, weights=self.weights[stay],
        )  # fmt: skip

    def closed(self) -> BatchGraph:
        """Return the graph with its support rows as targets too, each with self loops alone.

        Encoders run on this: a support row then passes every layer by itself. Its self loops are as many as a target
        has in-edges on average: degrees then tell encoders that it is a node like the targets, whose neighbours are
        not known.
        """
        if self.support is None:
            return self
        count = max(1, round(len(self.sources) / self.num_targets))
        loops = torch.arange(self.num_targets, self.num_nodes, device=self.support.device).repeat_interleave(count)
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
        """Return the graph of a `DGLGraph`, as `dgl` makes it; without `num_targets`, every node is a target."""
        sources, targets = graph.edges()
        num_targets = graph.num_nodes() if num_targets is None else num_targets
        weights = graph.edata.get("weight")
        return cls(sources.long(), targets.long(), num_targets, support=support, weights=weights)

    @functools.cached_property
    def _edges(self) -> tuple[Tensor, Tensor]:
        if self.neighbours is None:
            targets, sources = self.adjacency.nonzero(as_tuple=True)
            return sources, targets
        rows, k = self.neighbours.shape
        return self.neighbours.flatten(), torch.arange(rows, device=self.neighbours.device).repeat_interleave(k)

    def __repr__(self) -> str:
        return f"BatchGraph(targets={self.num_targets}, support={self.num_nodes - self.num_targets})"


@functools.cache
def load_dgl() -> ModuleType:
    """Return the `dgl` module, imported on first use.

    DGL requires a GraphBolt binary that exists for few versions of torch and that graphkd never uses, so this submodule
    is masked during the import. A DGL that was imported before is used as it is.

    Raises:
        UserError: DGL cannot be imported; the message names the versions.
    """
    if "dgl" in sys.modules:
        return sys.modules["dgl"]
    # Without a backend set, DGL prints advice and writes a file into the home folder.
    os.environ.setdefault("DGLBACKEND", "pytorch")
    mask = sys.modules["dgl.graphbolt"] = ModuleType("dgl.graphbolt")
    try:
        with warnings.catch_warnings():
            # In a notebook without ipywidgets, the progress bars that DGL imports warn; graphkd shows none of them.
            warnings.filterwarnings("ignore", message="IProgress not found")
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
    """Return DGL's graph convolution modules (`dgl.nn.pytorch`)."""
    load_dgl()
    return importlib.import_module("dgl.nn.pytorch")


@contextlib.contextmanager
def dgl_max_takes_first() -> Iterator[None]:
    """Give the gradient of DGL's max to the first of equal messages in this context (libxsmm takes the last)."""
    dgl = load_dgl()
    was_enabled = dgl.is_libxsmm_enabled()
    dgl.use_libxsmm(False)
    try:
        yield
    finally:
        dgl.use_libxsmm(was_enabled)


@functools.cache
def dgl_supports(device_type: str) -> bool:
    """Return whether the installed DGL supports a type of device (PyPI's wheels support the CPU only)."""
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
