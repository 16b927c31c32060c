"""The figures that explain graphs and contrast, against loops over edges and pairs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import naive
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import DIM, TRAIN_LABELS, TRAIN_SIZE, WIDTHS, batch, nodes, random_graph, seeded
from torch import Tensor

from graphkd import BUILDERS, GNNS, OBJECTIVES, DistillationBatch
from graphkd.contrast import FullBank, QueueBank, build_sampler, mean_negative_similarity
from graphkd.diagnostics import GraphDiagnostics, compare_graphs
from graphkd.graph import BatchGraph
from graphkd.objective.contrastive import ContrastiveObjective
from graphkd.objective.hkd import HKD


def edges(graph: BatchGraph, indices: Tensor) -> list[tuple[int, int]]:
    """The training samples at both ends of each edge that counts."""
    support = graph.num_nodes - graph.num_targets
    known = [-1] * support if graph.support_indices is None else graph.support_indices.tolist()
    samples = indices.tolist() + known
    pairs = zip(graph.sources.tolist(), graph.targets.tolist(), strict=True)
    found = [(samples[source], samples[target]) for source, target in pairs]
    return [(source, target) for source, target in found if source not in (-1, target)]


def naive_comparison(student: BatchGraph, teacher: BatchGraph, indices: Tensor, labels: Tensor) -> list[float]:
    both = [edges(graph, indices) for graph in (student, teacher)]
    homophily = [
        sum(bool(labels[source] == labels[target]) for source, target in some) / len(some) if some else math.nan
        for some in both
    ]
    ours, theirs = (set(some) for some in both)
    overlap = len(ours & theirs) / len(ours | theirs) if ours | theirs else math.nan
    return [*homophily, overlap, *(len(some) / len(indices) for some in both)]


@given(
    st.integers(1, 9), st.integers(0, 6), st.integers(0, 6), st.booleans(), st.booleans(), st.floats(0, 1),
    st.integers(0, 100),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_graphs_are_compared_as_by_a_loop_over_their_edges(
    size: int, student_rows: int, teacher_rows: int, known: bool, loops: bool, density: float, seed: int
) -> None:
    indices = torch.randperm(TRAIN_SIZE, generator=seeded(seed))[:size]
    graphs = []
    for number, rows in enumerate((student_rows, teacher_rows)):
        graph = random_graph(size, seed + number, rows, loops=loops, density=density)
        if known:
            graph.support_indices = torch.randint(TRAIN_SIZE, (rows,), generator=seeded(seed + number))
        graphs.append(graph)
    student, teacher = graphs
    found = torch.stack(compare_graphs(student, teacher, indices, TRAIN_LABELS))
    expected = naive_comparison(student, teacher, indices, TRAIN_LABELS)
    assert found.tolist() == pytest.approx(expected, nan_ok=True)


def test_a_graph_agrees_with_itself_and_no_edge_is_no_figure() -> None:
    indices = torch.arange(5)
    graph = random_graph(5, 1)
    same = compare_graphs(graph, graph, indices, TRAIN_LABELS)
    assert same.overlap == 1
    empty = BatchGraph.from_adjacency(torch.eye(5, dtype=torch.bool))
    none = compare_graphs(empty, graph, indices, TRAIN_LABELS)
    assert none.student_homophily.isnan()
    assert none.student_degree == none.overlap == 0
    assert none.teacher_homophily == same.teacher_homophily


@pytest.mark.parametrize("builder", BUILDERS.names())
def test_every_builder_says_which_samples_its_edges_join(builder: str) -> None:
    some = nodes(20)
    assert some.indices is not None
    graph = BUILDERS.build(builder).build(some)
    assert graph.support is None or graph.support_indices is not None
    figures = compare_graphs(graph, graph, some.indices, TRAIN_LABELS)
    assert figures.overlap.item() in (1.0, pytest.approx(math.nan, nan_ok=True))
    if builder == "label_aware":
        assert figures.student_homophily == 1


@pytest.mark.parametrize("kind", ["full", "queue"])
def test_the_neighbours_in_a_bank_are_the_samples_nearest_in_it(kind: str) -> None:
    bank: Any = FullBank(TRAIN_LABELS, DIM, generator=seeded(0))
    if kind == "queue":
        bank = QueueBank(TRAIN_LABELS, DIM, length=15)
        bank.update(torch.arange(40, 10, -2), torch.randn(15, DIM, generator=seeded(1)), 0.5)
    some = nodes(6, bank=bank.view())
    assert some.indices is not None
    assert some.embedding is not None
    graph = BUILDERS.build("bank_knn", k=3).build(some)
    samples = torch.arange(TRAIN_SIZE) if bank.indices is None else bank.indices
    expected = set()
    for sample, embedding in zip(some.indices.tolist(), some.embedding, strict=True):
        order = (bank.rows @ embedding).argsort(descending=True)
        others = [number for number in samples[order].tolist() if number != sample]
        expected |= {(other, sample) for other in others[:2]}
    assert set(edges(graph, some.indices)) == expected


@given(st.sampled_from(["explicit", "shared", "all", "all_weighted"]), st.integers(1, 6), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_the_mean_similarity_to_negatives_counts_each_as_often_as_it_was_drawn(
    sampler: str, size: int, seed: int
) -> None:
    bank = FullBank(TRAIN_LABELS, DIM, generator=seeded(seed))
    labels = TRAIN_LABELS[torch.randint(TRAIN_SIZE, (size,), generator=seeded(seed))]
    selection = build_sampler(sampler, bank, 7).select(labels, seeded(seed))
    queries = torch.randn(2, size, DIM, generator=seeded(seed))
    counts = naive.table(selection, TRAIN_SIZE)
    expected = ((queries.double() @ bank.rows.double().T) * counts).sum((1, 2)) / counts.sum()
    assert torch.allclose(mean_negative_similarity(queries, bank, selection).double(), expected, atol=1e-6)


def contrastive(name: str, builder: str = "random") -> ContrastiveObjective:
    torch.manual_seed(0)
    graph = {}
    if name == "hkd":
        gnns = {f"{side}_gnn": GNNS.build("tag", in_dim=8, out_dim=8) for side in ("student", "teacher")}
        graph = {"builder": BUILDERS.build(builder), **gnns}
    objective = OBJECTIVES.build(
        name, student_dim=WIDTHS["student"], teacher_dim=WIDTHS["teacher"], labels=TRAIN_LABELS, dim=8, negatives=12,
        **graph,
    )  # fmt: skip
    assert isinstance(objective, ContrastiveObjective)
    objective.prepare(torch.device("cpu"), lambda stream: seeded(len(stream)))
    return objective


def explained(some: DistillationBatch) -> DistillationBatch:
    return dataclasses.replace(some, diagnostics={})


@pytest.mark.parametrize("name", ["hkd", "crd"])
def test_diagnostics_change_neither_the_loss_nor_the_draws(name: str) -> None:
    plain, asked = contrastive(name), contrastive(name)
    for step in range(3):
        some = batch(9, step)
        values = [objective(seen) for objective, seen in ((plain, some), (asked, explained(some)))]
        assert all(torch.equal(values[0][part], values[1][part]) for part in values[0])
        for objective in (plain, asked):
            objective.after_step()
    assert torch.equal(plain.student_bank, asked.student_bank)


@pytest.mark.parametrize("name", ["hkd", "crd"])
def test_embeddings_and_positives_are_compared_as_by_hand(name: str) -> None:
    objective = contrastive(name)
    some = explained(batch(9))
    assert some.teacher is not None
    before = objective.teacher_bank.clone()
    objective(some)
    assert some.diagnostics is not None
    student = F.normalize(objective.student_head(some.student.embedding), dim=1)
    teacher = F.normalize(objective.teacher_head(some.teacher.embedding), dim=1)
    part = {"hkd": "individual", "crd": "student"}[name]
    positive = (student * before[some.indices]).sum(1).mean()
    assert torch.allclose(some.diagnostics["alignment"], (student * teacher).sum(1).mean())
    assert torch.allclose(some.diagnostics[f"{part}.positive_similarity"], positive)
    assert not any(value.requires_grad for value in some.diagnostics.values())
    assert (set(GraphDiagnostics._fields) <= set(some.diagnostics)) == (name == "hkd")


def test_local_graphs_are_compared_one_by_one_and_averaged() -> None:
    objective = contrastive("hkd", "complete")
    assert isinstance(objective, HKD)
    objective.graph_scope = "local"
    some = explained(dataclasses.replace(batch(9), parts=(7, 2)))
    objective(some)
    assert some.diagnostics is not None
    assert some.diagnostics["student_degree"] == (6 + 1) / 2


def test_an_objective_without_graphs_and_contrast_explains_nothing() -> None:
    some = explained(batch(5))
    OBJECTIVES.build("kd")(some)
    assert some.diagnostics == {}
