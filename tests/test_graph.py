"""The graph in all its forms, and the way to DGL and back."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import DIM, normal, random_graph, seeded
from torch import Tensor

from graphkd import BatchGraph, UserError
from graphkd.graph import dgl_max_takes_first, dgl_supports, load_dgl

seeds = st.integers(0, 1000)


@st.composite
def adjacencies(draw: st.DrawFn, max_size: int = 9, max_support: int = 4) -> tuple[Tensor, Tensor | None]:
    """A boolean matrix [T, T + S], of any density, and S support rows."""
    size = draw(st.integers(1, max_size))
    support = draw(st.integers(0, max_support))
    cells = draw(st.lists(st.booleans(), min_size=size * (size + support), max_size=size * (size + support)))
    matrix = torch.tensor(cells).view(size, size + support)
    return matrix, normal(0, support, DIM) if support else None


def edges(graph: BatchGraph) -> list[tuple[int, int]]:
    """(target, source) of each edge, in the graph's order."""
    return list(zip(graph.targets.tolist(), graph.sources.tolist(), strict=True))


@given(adjacencies(), seeds)
def test_edges_in_any_order_and_adjacency_are_the_same_graph(matrix: tuple[Tensor, Tensor | None], seed: int) -> None:
    adjacency, support = matrix
    targets, sources = adjacency.nonzero(as_tuple=True)
    shuffled = torch.randperm(len(targets), generator=seeded(seed))
    by_edges = BatchGraph(sources[shuffled], targets[shuffled], len(adjacency), support=support)
    by_adjacency = BatchGraph.from_adjacency(adjacency, support)
    for graph in (by_edges, by_adjacency):
        assert graph.num_targets == len(adjacency)
        assert graph.num_nodes == adjacency.shape[1]
        assert torch.equal(graph.adjacency, adjacency)
        assert edges(graph) == [tuple(cell) for cell in adjacency.nonzero().tolist()]
        assert edges(graph) == sorted(edges(graph))
        assert graph.sources.dtype == graph.targets.dtype == torch.int64
        assert torch.equal(graph.weighted_adjacency, adjacency.float())


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 4), seeds)
def test_a_neighbour_table_is_the_same_graph(size: int, k: int, support: int, seed: int) -> None:
    chosen = torch.rand(size, size + support, generator=seeded(seed)).argsort(dim=1)[:, :k]
    adjacency = torch.zeros(size, size + support, dtype=torch.bool).scatter_(1, chosen, True)
    rows = normal(0, support, DIM) if support else None
    graph = BatchGraph.from_neighbours(chosen, rows)
    expected = BatchGraph.from_adjacency(adjacency, rows)
    assert edges(graph) == edges(expected)
    assert torch.equal(graph.adjacency, expected.adjacency)
    assert graph.neighbours is not None
    assert torch.equal(graph.neighbours, graph.sources.view(size, -1))
    assert expected.neighbours is None


@given(st.integers(1, 9), st.integers(0, 4), seeds)
def test_weights_stay_with_their_edges(size: int, support: int, seed: int) -> None:
    matrix = torch.rand(size, size + support, generator=seeded(seed)).round(decimals=1)
    targets, sources = matrix.nonzero(as_tuple=True)
    shuffled = torch.randperm(len(targets), generator=seeded(seed))
    rows = normal(0, support, DIM) if support else None
    graph = BatchGraph(
        sources[shuffled], targets[shuffled], size, support=rows, weights=matrix[targets, sources][shuffled]
    )
    assert graph.weights is not None
    assert torch.equal(graph.weights, matrix[graph.targets, graph.sources])
    assert torch.equal(graph.weighted_adjacency, matrix)


def test_weights_keep_dtype_and_gradient_in_the_matrix() -> None:
    weights = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64, requires_grad=True)
    graph = BatchGraph(torch.tensor([1, 0, 1]), torch.tensor([1, 1, 0]), 2, weights=weights)
    assert torch.equal(graph.weighted_adjacency, torch.tensor([[0, 0.3], [0.2, 0.1]], dtype=torch.float64))
    (graph.weighted_adjacency * torch.tensor([[1, 2], [3, 4]])).sum().backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [4, 3, 2]


@given(st.integers(1, 9), st.sampled_from([0, 3]), st.booleans(), seeds)
def test_there_and_back_through_dgl(size: int, support: int, weighted: bool, seed: int) -> None:
    graph = random_graph(size, seed, support, weighted)
    sparse = graph.dgl()
    assert sparse.num_nodes() == size + support
    assert sparse.num_edges() == len(graph.sources)
    targets, sources = torch.ones_like(graph.adjacency).nonzero(as_tuple=True)
    assert torch.equal(sparse.has_edges_between(sources, targets), graph.adjacency.flatten())
    back = BatchGraph.from_dgl(sparse, num_targets=size, support=graph.support)
    assert edges(back) == edges(graph)
    assert back.num_nodes == graph.num_nodes
    assert back.support is graph.support
    if weighted:
        assert torch.equal(back.weighted_adjacency, graph.weighted_adjacency)
    else:
        assert back.weights is None


def test_a_dgl_graph_in_any_order_of_edges_keeps_its_weights() -> None:
    matrix = torch.tensor([[0.0, 0.5], [0.25, 0.75]])
    graph = BatchGraph(torch.tensor([1, 1, 0]), torch.tensor([1, 0, 1]), 2, weights=torch.tensor([0.75, 0.5, 0.25]))
    sparse = graph.dgl()
    reordered = sparse.edge_subgraph([2, 0, 1], relabel_nodes=False)
    back = BatchGraph.from_dgl(reordered)
    assert back.num_targets == 2
    assert torch.equal(back.weighted_adjacency, matrix)


@pytest.mark.parametrize("support", [0, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_keeping_some_edges_keeps_self_loops_weights_and_support(support: int, weighted: bool) -> None:
    graph = random_graph(7, 0, support, weighted)
    kept = torch.rand(7, 7 + support, generator=seeded(1)) < 0.5
    found = graph.keep(kept)
    kept[:, :7].fill_diagonal_(True)
    assert torch.equal(found.weighted_adjacency, graph.weighted_adjacency * kept)
    assert found.support is graph.support
    assert (found.weights is None) == (graph.weights is None)


@given(adjacencies(max_support=0))
def test_without_support_a_graph_is_closed_already(matrix: tuple[Tensor, Tensor | None]) -> None:
    graph = BatchGraph.from_adjacency(matrix[0])
    assert graph.closed() is graph


@given(st.integers(1, 9), st.integers(1, 4), st.booleans(), seeds)
def test_closing_gives_each_support_row_the_degree_of_a_target(
    size: int, support: int, weighted: bool, seed: int
) -> None:
    graph = random_graph(size, seed, support, weighted)
    closed = graph.closed()
    expected = torch.eye(size + support)
    degree = max(1, round(len(graph.sources) / size))
    assert closed.targets.bincount(minlength=size + support).tolist()[size:] == support * [degree]
    expected[:size] = graph.weighted_adjacency
    assert closed.support is None
    assert closed.num_targets == closed.num_nodes == size + support
    assert torch.equal(closed.weighted_adjacency, expected)
    assert torch.equal(closed.adjacency, expected != 0)
    assert edges(closed) == sorted(edges(closed))


@pytest.mark.parametrize(
    ("adjacency", "support", "message"),
    [
        (torch.ones(3, 3), None, r"bool \[targets, targets \+ 0 support rows\], not torch.float32 \[3, 3\]"),
        (torch.ones(3, 4).bool(), None, r"not torch.bool \[3, 4\]"),
        (torch.ones(3).bool(), None, r"not torch.bool \[3\]"),
        (torch.ones(3, 3).bool(), torch.ones(2, 4), r"\+ 2 support rows\], not torch.bool \[3, 3\]"),
    ],
)
def test_a_wrong_adjacency_is_an_error(adjacency: Tensor, support: Tensor | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        BatchGraph.from_adjacency(adjacency, support)


def test_a_graph_says_its_size() -> None:
    assert repr(random_graph(4, 0, support=3)) == "BatchGraph(targets=4, support=3)"


def test_what_the_installed_dgl_can_run_on() -> None:
    assert dgl_supports("cpu")
    assert not dgl_supports("meta")


def test_a_dgl_that_does_not_work_is_one_line_with_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise FileNotFoundError(f"no binary of {name} for this torch\nand more")

    monkeypatch.delitem(sys.modules, "dgl", raising=False)
    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(UserError) as caught:
        load_dgl.__wrapped__()
    message = str(caught.value)
    assert re.match(r"DGL [\d.]+\S* does not work with torch [\d.]+\S* on Python 3\.\d+\.\d+: ", message)
    assert message.endswith("FileNotFoundError: no binary of dgl for this torch; graphkd needs dgl >= 2.1")
    assert "dgl.graphbolt" not in sys.modules


def test_max_takes_the_first_of_equals_only_where_asked() -> None:
    dgl = load_dgl()
    enabled = dgl.is_libxsmm_enabled()
    with dgl_max_takes_first():
        assert not dgl.is_libxsmm_enabled()
    assert dgl.is_libxsmm_enabled() == enabled


@pytest.mark.gpu
def test_the_forms_agree_on_a_gpu() -> None:
    cpu = random_graph(7, 0, support=3, weighted=True)
    assert cpu.support is not None
    assert cpu.weights is not None
    gpu = BatchGraph(cpu.sources.cuda(), cpu.targets.cuda(), 7, support=cpu.support.cuda(), weights=cpu.weights.cuda())
    assert torch.equal(gpu.weighted_adjacency.cpu(), cpu.weighted_adjacency)
    assert torch.equal(gpu.closed().weighted_adjacency.cpu(), cpu.closed().weighted_adjacency)
