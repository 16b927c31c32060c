"""The k nearest neighbours among all banked samples instead of the batch alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from graphkd.builder.base import BUILDERS, NO_EDGES, GraphBuilder, required_labels, select
from graphkd.errors import UserError, check
from graphkd.graph import BankRows, BatchGraph, Nodes


@BUILDERS.register("bank_knn")
class BankKNN(GraphBuilder):
    """Each sample and its k - 1 nearest in the network's own bank, which holds the whole training set.

    A batch of 64 from 100 classes has few samples of one class, so its own graph is mostly noise. Here the neighbours
    are support rows of the graph, which get no gradient.
    """

    uses_bank = True
    revision = 2  # since support rows have the degree of a target

    def __init__(self, k: int = 8, same_label_only: bool = False) -> None:
        """Create a kNN builder over the bank.

        Nearest means the largest inner product with the banked rows, which are of unit length once they are written.

        Args:
            k: In-degree of every node, its self loop included; its own banked row is not a neighbour.
            same_label_only: Take rows of the sample's own class only; where there are fewer, the in-degree is lower.

        Raises:
            UserError: k is below 1.
        """
        check(k >= 1, f"graph builder 'bank_knn': k is {k}, but must be at least 1")
        self.k = k
        self.same_label_only = same_label_only

    def notes(self, batch_size: int, labels: Tensor) -> Sequence[str]:
        if self.k == 1:
            return [f"k is 1, so {NO_EDGES}"]
        others = (int(labels.bincount().max()) if self.same_label_only else len(labels)) - 1
        among = "of the sample's class" if self.same_label_only else "in the training set"
        if others >= self.k - 1:
            return ()
        return [f"k is {self.k}, but there are at most {others} other samples {among} to choose from"]

    def build(self, nodes: Nodes) -> BatchGraph:
        """Return the graph, with (k - 1) x B support rows at most."""
        embedding = select(nodes, "embedding")
        if nodes.bank is None or nodes.indices is None:
            raise UserError("graph builder 'bank_knn' needs the nodes' bank and indices")
        labels = required_labels(nodes, "bank_knn") if self.same_label_only else None
        forbid = partial(_forbid, nodes.bank, nodes.indices, labels)
        similarity, rows = nodes.bank.nearest(embedding, self.k - 1, forbid)
        support = nodes.bank.take(rows.flatten(), embedding)
        size, slots = rows.shape
        own = torch.eye(size, dtype=torch.bool, device=embedding.device)
        found = own[:, :, None] & (similarity > -torch.inf)[:, None, :]
        samples = rows if nodes.bank.indices is None else nodes.bank.indices[rows]
        adjacency = torch.cat([own, found.view(size, size * slots)], dim=1)
        return BatchGraph.from_adjacency(adjacency, support, samples.flatten())


def _forbid(bank: BankRows, indices: Tensor, labels: Tensor | None, products: Tensor, part: slice) -> None:
    """Set products with a chunk of rows to -inf: unfilled rows, own ones, and other classes' if labels are given."""
    classes = bank.labels[part]
    if bank.indices is None:  # row i is sample i
        places = indices[:, None] - part.start
        near = places.clamp(0, len(classes) - 1)
        products.scatter_(1, near, products.gather(1, near).masked_fill(near == places, -torch.inf))
    else:
        products.masked_fill_((classes < 0) | (bank.indices[part] == indices[:, None]), -torch.inf)
    if labels is not None:
        products.masked_fill_(classes != labels[:, None], -torch.inf)
