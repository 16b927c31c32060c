"""The base class of all graph builders, and the distances that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.errors import UserError, check
from graphkd.graph import BatchGraph, Nodes
from graphkd.registry import Registry

Metric = Literal["softmax_cosine", "cosine", "euclidean"]
Input = Literal["logits", "embedding"]

NO_EDGES = "its graphs have no edges but self loops"


class GraphBuilder(ABC):
    """Builds a graph of the samples of a batch, without parameters, gradient or waiting for the device.

    Every graph has all self loops and no edge twice, for any batch size from 1 up.
    """

    views: ClassVar[tuple[str, ...]] = ("weak",)
    """Views of the samples that it looks at: of the nodes, and of their `virtual` ones where there is a second."""
    uses_bank: ClassVar[bool] = False
    """Whether sources are rows of a feature bank, of which there are no predictions."""
    revision: ClassVar[int] = 1
    """As of an objective (`graphkd.objective.base`)."""
    _is_checked = False

    @property
    def min_nodes(self) -> int:
        """The smallest batch whose graph meets the options (HKD leaves smaller ones out)."""
        return 1

    def notes(self, batch_size: int, labels: Tensor) -> Sequence[str]:
        """Return why graphs of `batch_size` samples will not meet the options, one line each.

        The labels are those of all training samples, int64 [N].
        """
        return ()

    @abstractmethod
    def build(self, nodes: Nodes) -> BatchGraph:
        """Return the graph of a batch; raise a `UserError` if `nodes` lacks something that the builder needs."""

    def build_checked(self, nodes: Nodes) -> BatchGraph:
        """Return the graph of a batch; the first one is checked, for which it may wait for the device.

        Raises:
            UserError: `build` returned something else, a graph of other samples, or one that lacks self loops.
        """
        graph = self.build(nodes)
        if not self._is_checked:
            self._check(graph, len(nodes.logits))
            object.__setattr__(self, "_is_checked", True)  # a frozen dataclass may be a builder
        return graph

    def _check(self, graph: BatchGraph, size: int) -> None:
        name = f"graph builder {type(self).__name__}"
        check(isinstance(graph, BatchGraph), f"{name} must return a BatchGraph, not a {type(graph).__name__}")
        targets = graph.num_targets
        check(targets == size, f"{name}: its graph has {targets} targets, but the batch has {size} samples")
        lonely = int((~graph.adjacency.diagonal()).sum())
        check(lonely == 0, f"{name}: {lonely} of {size} samples have no self loop (adjacency.fill_diagonal_(True))")


BUILDERS: Registry[GraphBuilder] = Registry("graph builder", "graphkd.builder")


def select(nodes: Nodes, input: Input) -> Tensor:
    """Return the detached logits or embeddings of a batch, at least float32 [B, D]; a `UserError` if missing."""
    values = nodes.logits if input == "logits" else nodes.embedding
    if values is None:
        raise UserError("a graph builder with input=embedding needs the nodes' embedding, and there is none")
    values = values.detach()
    return values if values.dtype == torch.float64 else values.float()


def required_labels(nodes: Nodes, builder: str) -> Tensor:
    """Return the labels of a batch; raise a `UserError` if there are none."""
    if nodes.labels is None:
        raise UserError(f"graph builder '{builder}' needs the nodes' labels, and there are none")
    return nodes.labels


def pairwise_distance(values: Tensor, metric: Metric) -> Tensor:
    """Return the distances between all rows, float [B, B]; 0 is nearest.

    `softmax_cosine` is HKD's: 1 - cosine of the softmax rows, with the product of norms clamped at 1e-7
    (arXiv 2108.05507); `cosine` is the same without the softmax.
    """
    if metric == "euclidean":
        return torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist")
    if metric == "softmax_cosine":
        values = F.softmax(values, dim=1)
    norms = values.norm(dim=1)
    return 1 - (values @ values.T) / torch.outer(norms, norms).clamp(min=1e-7)


def nearest(distance: Tensor, k: int) -> Tensor:
    """Return the k nearest of each row, itself always first, int64 [B, min(k, B)]; ties go to the lower index."""
    own_first = distance.clone().fill_diagonal_(-torch.inf)
    return own_first.argsort(dim=1, stable=True)[:, :k]


def self_loops(adjacency: Tensor) -> Tensor:
    """Return the adjacency, bool [B, B], with all self loops added."""
    return adjacency | torch.eye(len(adjacency), dtype=torch.bool, device=adjacency.device)
