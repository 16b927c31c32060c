from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from neighbours import distances, edges, nearest
from samples import nodes

from graphkd import BUILDERS, Nodes, UserError

sizes = st.integers(1, 40)
seeds = st.integers(0, 1000)
ks = st.none() | st.integers(1, 6)


def same_label(labels: list[int]) -> set[tuple[int, int]]:
    return {(a, b) for a, one in enumerate(labels) for b, other in enumerate(labels) if one == other}


@example(size=40, k=4, seed=1)
@given(sizes, ks, seeds)
def test_edges_join_samples_of_one_label_only(size: int, k: int | None, seed: int) -> None:
    batch = nodes(size, seed)
    assert batch.labels is not None
    graph = BUILDERS.build("label_aware", k=k).build(batch)
    assert torch.equal(batch.labels[graph.sources], batch.labels[graph.targets])
    assert graph.adjacency.diagonal().all()


@given(sizes, seeds)
def test_without_k_all_of_one_label_are_joined(size: int, seed: int) -> None:
    batch = nodes(size, seed)
    assert batch.labels is not None
    graph = BUILDERS.build("label_aware").build(batch)
    assert edges(graph) == same_label(batch.labels.tolist())


@pytest.mark.parametrize("input", ["logits", "embedding"])
@pytest.mark.parametrize("metric", ["softmax_cosine", "cosine", "euclidean"])
@example(size=40, k=4, seed=1)
@given(size=sizes, k=st.integers(1, 6), seed=seeds)
def test_with_k_the_nearest_of_the_label_equal_the_loops(metric: str, input: str, size: int, k: int, seed: int) -> None:
    batch = nodes(size, seed, dtype=torch.float64)
    assert batch.labels is not None
    graph = BUILDERS.build("label_aware", k=k, metric=metric, input=input).build(batch)
    allowed = same_label(batch.labels.tolist())
    assert edges(graph) == nearest(distances(getattr(batch, input), metric), k, among=allowed)


@pytest.mark.parametrize("k", [None, 1, 3])
def test_a_label_that_stands_alone_keeps_its_self_loop(k: int | None) -> None:
    batch = Nodes(torch.zeros(4, 3), labels=torch.tensor([1, 2, 1, 3]))
    graph = BUILDERS.build("label_aware", k=k).build(batch)
    pair = {(0, 2), (2, 0)} if k != 1 else set()
    assert edges(graph) == {(0, 0), (1, 1), (2, 2), (3, 3)} | pair


def test_it_is_meant_for_any_batch() -> None:
    assert BUILDERS.build("label_aware", k=5).min_nodes == 1


def test_labels_must_be_there() -> None:
    with pytest.raises(UserError, match="graph builder 'label_aware' needs the nodes' labels"):
        BUILDERS.build("label_aware").build(Nodes(torch.zeros(3, 2)))


def test_k_must_be_positive() -> None:
    with pytest.raises(UserError, match="'label_aware': k is 0, but must be null or at least 1"):
        BUILDERS.build("label_aware", k=0)
