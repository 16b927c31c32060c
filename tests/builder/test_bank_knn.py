from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphkd import BUILDERS, Nodes, UserError
from graphkd.contrast import Bank, FullBank, QueueBank, view

LABELS = torch.arange(50) % 5


def batch(bank: Bank, size: int = 6, seed: int = 0) -> Nodes:
    """Samples 0, 7, 14, ... with random embeddings."""
    indices = 7 * torch.arange(size)
    embedding = torch.randn(size, 4, generator=torch.Generator().manual_seed(seed))
    return Nodes(torch.zeros(size, 5), embedding, LABELS[indices], indices, bank.view())


def full_bank() -> FullBank:
    return FullBank(LABELS, 4, generator=torch.Generator().manual_seed(1))


def naive_neighbours(nodes: Nodes, sample: int, k: int, same_label_only: bool) -> list[int]:
    """Rows of the k - 1 largest inner products, by one loop over the bank."""
    assert nodes.bank is not None
    assert nodes.embedding is not None
    assert nodes.indices is not None
    allowed = [
        row
        for row in range(len(nodes.bank.rows))
        if row != nodes.indices[sample] and (not same_label_only or LABELS[row] == LABELS[nodes.indices[sample]])
    ]
    return sorted(allowed, key=lambda row: -float(nodes.embedding[sample] @ nodes.bank.rows[row]))[: k - 1]


def support_of(adjacency: Tensor, support: Tensor, sample: int) -> list[list[float]]:
    return sorted(support[adjacency[sample, len(adjacency) :]].tolist())


@pytest.mark.parametrize("same_label_only", [False, True])
@pytest.mark.parametrize("k", [1, 2, 8, 20])
def test_equals_one_loop_over_the_bank(k: int, same_label_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "_CHUNK_ROWS", 16)  # so that there are several chunks, the last one smaller
    nodes = batch(full_bank())
    graph = BUILDERS.build("bank_knn", k=k, same_label_only=same_label_only).build(nodes)
    assert nodes.bank is not None
    assert graph.support is not None
    assert torch.equal(graph.adjacency[:, : graph.num_targets], torch.eye(6, dtype=torch.bool))
    for sample in range(6):
        expected = naive_neighbours(nodes, sample, k, same_label_only)
        assert support_of(graph.adjacency, graph.support, sample) == sorted(nodes.bank.rows[expected].tolist())


def test_a_class_with_too_few_samples_gives_a_lower_in_degree() -> None:
    graph = BUILDERS.build("bank_knn", k=20, same_label_only=True).build(batch(full_bank()))
    assert graph.adjacency.sum(dim=1).tolist() == [10] * 6  # itself, and nine others of its class


def test_unfilled_rows_of_a_queue_are_no_neighbours() -> None:
    bank = QueueBank(LABELS, 4, 30, generator=torch.Generator().manual_seed(1))
    assert BUILDERS.build("bank_knn").build(batch(bank)).adjacency.sum() == 6
    bank.update(torch.tensor([0, 1, 2]), torch.randn(3, 4), momentum=0.9)
    in_degrees = BUILDERS.build("bank_knn").build(batch(bank)).adjacency.sum(dim=1)
    assert in_degrees.tolist() == [3, 4, 4, 4, 4, 4]  # sample 0 is in the queue itself


def test_a_bank_and_indices_are_needed() -> None:
    nodes = batch(full_bank())
    with pytest.raises(UserError, match="needs the nodes' bank"):
        BUILDERS.build("bank_knn").build(Nodes(nodes.logits, nodes.embedding, nodes.labels, nodes.indices))


def test_k_below_one_is_an_error() -> None:
    with pytest.raises(UserError, match="k is 0"):
        BUILDERS.build("bank_knn", k=0)
