from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from neighbours import Edges, distances, edges, nearest
from samples import nodes

from graphkd import BUILDERS, BatchGraph, Nodes, UserError

METRICS = ["softmax_cosine", "cosine", "euclidean"]
sizes = st.integers(1, 40)
seeds = st.integers(0, 1000)
taus = st.floats(-1, 1)
caps = st.integers(1, 6)


def build(batch: Nodes, **options: Any) -> BatchGraph:
    return BUILDERS.build("threshold", **options).build(batch)


def similar(distance: list[list[float]], metric: str, tau: float) -> Edges:
    return {
        (a, b)
        for a, row in enumerate(distance)
        for b, apart in enumerate(row)
        if a == b or (1 / (1 + apart) if metric == "euclidean" else 1 - apart) >= tau
    }


def reversed_edges(graph: Edges) -> Edges:
    return {(source, target) for target, source in graph}


@pytest.mark.parametrize("input", ["logits", "embedding"])
@pytest.mark.parametrize("metric", METRICS)
@example(size=40, tau=0.3, seed=1)
@given(size=sizes, tau=st.sampled_from([-0.35, 0.15, 0.3, 0.55, 0.85]), seed=seeds)
def test_edges_equal_the_loops(metric: str, input: str, size: int, tau: float, seed: int) -> None:
    batch = nodes(size, seed, dtype=torch.float64)
    found = edges(build(batch, tau=tau, metric=metric, input=input))
    assert found == similar(distances(getattr(batch, input), metric), metric, tau)


@pytest.mark.parametrize("metric", METRICS)
@example(size=40, tau=0.7, seed=1)
@given(size=sizes, tau=taus, seed=seeds)
def test_without_a_cap_it_is_symmetric(metric: str, size: int, tau: float, seed: int) -> None:
    adjacency = build(nodes(size, seed), tau=tau, metric=metric).adjacency
    assert torch.equal(adjacency, adjacency.T)


@pytest.mark.parametrize("metric", METRICS)
@example(size=40, cap=4, seed=1)
@given(size=sizes, cap=caps, seed=seeds)
def test_a_cap_keeps_each_rows_strongest(metric: str, size: int, cap: int, seed: int) -> None:
    batch = nodes(size, seed, dtype=torch.float64)
    found = edges(build(batch, tau=0.3, metric=metric, cap=cap))
    distance = distances(batch.logits, metric)
    assert found == nearest(distance, cap, among=similar(distance, metric, 0.3))


@given(sizes, taus, caps, seeds)
def test_a_cap_bounds_the_in_degree(size: int, tau: float, cap: int, seed: int) -> None:
    graph = build(nodes(size, seed), tau=tau, cap=cap)
    assert graph.adjacency.sum(dim=1).max() <= cap
    assert graph.adjacency.diagonal().all()


@given(sizes, taus, caps, seeds)
def test_mutual_keeps_what_both_ends_keep(size: int, tau: float, cap: int, seed: int) -> None:
    capped = edges(build(nodes(size, seed), tau=tau, cap=cap))
    mutual = edges(build(nodes(size, seed), tau=tau, cap=cap, mutual=True))
    assert mutual == capped & reversed_edges(capped)
    assert mutual == reversed_edges(mutual)


def test_a_cap_alone_need_not_be_symmetric() -> None:
    capped = edges(build(nodes(20, 0), tau=-1.0, cap=2))
    assert capped != reversed_edges(capped)


def test_a_similarity_of_tau_is_enough() -> None:
    batch = Nodes(torch.tensor([[0.0], [3.0], [7.0]]))
    assert edges(build(batch, metric="euclidean", tau=0.25)) == {(0, 0), (1, 1), (2, 2), (0, 1), (1, 0)}
    saturated = Nodes(1e4 * torch.eye(3)[[0, 1, 0]])
    assert edges(build(saturated, tau=1.0)) == {(0, 0), (1, 1), (2, 2), (0, 2), (2, 0)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 1.1}, "'threshold': tau is 1.1, but no similarity is above 1"),
        ({"cap": 0}, "'threshold': cap is 0, but must be null or at least 1"),
        ({"mutual": 1}, "option 'mutual' is 1, but must be true or false"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BUILDERS.build("threshold", **options)
