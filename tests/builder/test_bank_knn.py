from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
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
@pytest.mark.parametrize(("chunk", "block"), [(16, 64), (16, 2), (15, 2)])  # several chunks, the last one smaller
def test_equals_one_loop_over_the_bank(
    k: int, same_label_only: bool, chunk: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "_CHUNK_ROWS", chunk)
    monkeypatch.setattr(view, "_BLOCK", block)
    nodes = batch(full_bank())
    graph = BUILDERS.build("bank_knn", k=k, same_label_only=same_label_only).build(nodes)
    assert nodes.bank is not None
    assert graph.support is not None
    assert torch.equal(graph.adjacency[:, : graph.num_targets], torch.eye(6, dtype=torch.bool))
    for sample in range(6):
        expected = naive_neighbours(nodes, sample, k, same_label_only)
        assert support_of(graph.adjacency, graph.support, sample) == sorted(nodes.bank.rows[expected].tolist())


@example(values=np.full((1, 3), -3, np.float32), count=1, block=2)  # nothing but -inf, and a place is added
@given(
    values=arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 40)), elements=st.integers(-3, 3)),
    count=st.integers(1, 8),
    block=st.integers(1, 5),
)
def test_the_largest_are_found_by_blocks_whatever_the_ties(values: Any, count: int, block: int) -> None:
    lines = torch.from_numpy(values).masked_fill(torch.from_numpy(values) == -3, -torch.inf)
    count = min(count, lines.shape[1])
    with mock.patch.object(view, "_BLOCK", block):
        best, places = view._top(lines, count)
    assert torch.equal(best, lines.topk(count, dim=1).values)
    assert torch.equal(lines.gather(1, places), best)
    for line, of in zip(places.tolist(), best.tolist(), strict=True):
        real = [place for place, value in zip(line, of, strict=True) if value > -torch.inf]
        assert len(set(real)) == len(real)


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
