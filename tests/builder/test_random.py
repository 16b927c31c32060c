from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from neighbours import edges
from samples import nodes, seeded

from graphkd import BUILDERS, UserError


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 1000))
def test_in_degree_is_k_with_itself(size: int, k: int, seed: int) -> None:
    graph = BUILDERS.build("random", k=k).build(nodes(size, seed))
    assert graph.adjacency.sum(dim=1).tolist() == [min(k, size)] * size
    assert graph.adjacency.diagonal().all()


def test_the_generator_decides_and_nothing_else() -> None:
    builder = BUILDERS.build("random", k=4)
    first = edges(builder.build(nodes(20, 0, generator=seeded(1))))
    assert edges(builder.build(nodes(20, 7, generator=seeded(1)))) == first
    assert edges(builder.build(nodes(20, 0, generator=seeded(2)))) != first


def test_each_batch_has_a_new_graph() -> None:
    builder, batch = BUILDERS.build("random", k=4), nodes(20)
    assert edges(builder.build(batch)) != edges(builder.build(batch))


def test_without_a_generator_torchs_own_decides() -> None:
    builder, batch = BUILDERS.build("random", k=4), nodes(20, generator=None)
    graphs = []
    for _ in range(2):
        torch.manual_seed(3)
        graphs.append(edges(builder.build(batch)))
    assert graphs[0] == graphs[1]


def test_every_other_sample_is_as_likely() -> None:
    builder, batch = BUILDERS.build("random", k=3), nodes(9)
    draws = 2000
    counts = sum(builder.build(batch).adjacency.float() for _ in range(draws))
    assert isinstance(counts, torch.Tensor)
    others = counts[~torch.eye(9, dtype=torch.bool)] / draws
    # 72 frequencies of chance 2/8, each with a standard deviation of 0.0097
    assert (others - 0.25).abs().max() < 5 * 0.0097


def test_the_smallest_batch_it_is_meant_for() -> None:
    assert BUILDERS.build("random", k=5).min_nodes == 5


def test_k_must_be_positive() -> None:
    with pytest.raises(UserError, match="'random': k is 0, but must be at least 1"):
        BUILDERS.build("random", k=0)
