from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from neighbours import distances, edges, nearest
from samples import nodes, normal

from graphkd import BUILDERS, Nodes, UserError
from graphkd.builder.base import pairwise_distance

METRICS = ["softmax_cosine", "cosine", "euclidean"]
sizes = st.integers(1, 40)
seeds = st.integers(0, 1000)


@pytest.mark.parametrize("metric", METRICS)
@given(size=sizes, classes=st.integers(1, 12), seed=seeds)
def test_distances_equal_the_loops(metric: str, size: int, classes: int, seed: int) -> None:
    values = normal(seed, size, classes, dtype=torch.float64)
    found = pairwise_distance(values, metric)  # type: ignore[arg-type]
    torch.testing.assert_close(found, torch.tensor(distances(values, metric), dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", [0.0, 1e-5, 2e-4, 1.0])
def test_the_product_of_norms_is_clamped(norm: float) -> None:
    values = norm * torch.eye(3, dtype=torch.float64)[[0, 0, 1]]
    expected = 1 - min(1.0, norm**2 / 1e-7)
    found = pairwise_distance(values, "cosine")
    torch.testing.assert_close(found[0], torch.tensor([expected, expected, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("input", ["logits", "embedding"])
@pytest.mark.parametrize("metric", METRICS)
@example(size=40, k=8, seed=1)
@given(size=sizes, k=st.integers(1, 12), seed=seeds)
def test_neighbours_equal_the_loops(metric: str, input: str, size: int, k: int, seed: int) -> None:
    batch = nodes(size, seed, dtype=torch.float64)
    graph = BUILDERS.build("knn", k=k, metric=metric, input=input).build(batch)
    assert edges(graph) == nearest(distances(getattr(batch, input), metric), k)


@example(size=40, k=8, seed=1)
@given(size=sizes, k=st.integers(1, 12), seed=seeds)
def test_in_degree_is_k_with_itself(size: int, k: int, seed: int) -> None:
    graph = BUILDERS.build("knn", k=k).build(nodes(size, seed))
    assert graph.adjacency.sum(dim=1).tolist() == [min(k, size)] * size
    assert graph.adjacency.diagonal().all()
    assert len(graph.sources) == size * min(k, size)


@example(size=40, k=8, seed=1)
@given(size=sizes, k=st.integers(1, 12), seed=seeds)
def test_saturated_logits_tie_to_the_lower_index(size: int, k: int, seed: int) -> None:
    favourite = normal(seed, size, 4).argmax(dim=1)
    logits = torch.full((size, 4), -1e4).scatter_(1, favourite[:, None], 1e4)
    graph = BUILDERS.build("knn", k=k).build(Nodes(logits))
    assert edges(graph) == nearest(distances(logits, "softmax_cosine"), k)


def test_ties_worked_out_by_hand() -> None:
    logits = 1e4 * torch.eye(2)[[0, 1, 0, 0, 1]]
    table = BUILDERS.build("knn", k=3).build(Nodes(logits)).neighbours
    assert table is not None
    # 0 has 2 and 3; 1 has 4, then the lowest of the others; 4 likewise.
    assert table.tolist() == [[0, 2, 3], [0, 1, 4], [0, 2, 3], [0, 2, 3], [0, 1, 4]]


@pytest.mark.parametrize("metric", METRICS)
def test_the_own_sample_is_first_even_where_another_is_as_near(metric: str) -> None:
    graph = BUILDERS.build("knn", k=1, metric=metric).build(Nodes(torch.zeros(6, 3)))
    assert edges(graph) == {(index, index) for index in range(6)}


def test_the_smallest_batch_it_is_meant_for() -> None:
    assert BUILDERS.build("knn", k=5).min_nodes == 5


def test_embeddings_must_be_there() -> None:
    with pytest.raises(UserError, match="input=embedding needs the nodes' embedding"):
        BUILDERS.build("knn", input="embedding").build(Nodes(torch.zeros(3, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "graph builder 'knn': k is 0, but must be at least 1"),
        ({"k": 2.0}, "graph builder 'knn': option 'k' is 2.0, but must be an integer"),
        ({"metric": "l2"}, "option 'metric' is 'l2', but must be one of softmax_cosine, cosine, euclidean"),
        ({"input": "images"}, "option 'input' is 'images', but must be one of logits, embedding"),
        ({"kk": 2}, "graph builder 'knn' has no option 'kk'; did you mean 'k'"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BUILDERS.build("knn", **options)
