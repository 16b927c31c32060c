"""What every registered graph builder must do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from samples import CLASSES, DIM, TRAIN_LABELS, nodes, normal, seeded
from torch import Tensor

from graphkd import BUILDERS, BatchGraph, Nodes
from graphkd.contrast.options import BankOptions

every_builder = pytest.mark.parametrize("name", BUILDERS.names())
sizes = st.integers(1, 40)
seeds = st.integers(0, 1000)
few = settings(max_examples=12)

DEGENERATE = {
    "constant": lambda size: torch.full((size, CLASSES), 2.5),
    "zero": lambda size: torch.zeros(size, CLASSES),
    "identical rows": lambda size: normal(0, 1, CLASSES).repeat(size, 1),
    "some zero rows": lambda size: normal(0, size, CLASSES) * (torch.arange(size) % 2)[:, None],
    "saturated": lambda size: 1e4 * normal(0, size, CLASSES).sign(),
    "huge": lambda size: 1e4 * normal(0, size, CLASSES),
    "tiny": lambda size: 1e-30 * normal(0, size, CLASSES),
}


def check_valid(graph: BatchGraph, size: int) -> None:
    """A graph of `size` targets with all self loops, each edge once, in order, and the same in every form."""
    assert graph.num_targets == size
    assert graph.num_nodes == size + (0 if graph.support is None else len(graph.support))
    sources, targets = graph.sources, graph.targets
    assert sources.dtype == targets.dtype == torch.int64
    assert 0 <= int(targets.min()) <= int(targets.max()) < size
    assert 0 <= int(sources.min()) <= int(sources.max()) < graph.num_nodes
    pairs = list(zip(targets.tolist(), sources.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert {(index, index) for index in range(size)} <= set(pairs)
    assert graph.adjacency.dtype == torch.bool
    assert graph.adjacency.nonzero().tolist() == [list(pair) for pair in pairs]
    if graph.weights is not None:
        assert graph.weights.shape == targets.shape
    back = BatchGraph.from_dgl(graph.dgl(), size, graph.support)
    assert torch.equal(back.adjacency, graph.adjacency)
    assert torch.equal(back.weighted_adjacency, graph.weighted_adjacency)


def same(one: BatchGraph, other: BatchGraph) -> bool:
    """Whether two graphs are equal, support rows and weights included."""
    tensors = [(graph.weighted_adjacency, graph.support) for graph in (one, other)]
    return all(
        (a is None and b is None) or (a is not None and b is not None and torch.equal(a.cpu(), b.cpu()))
        for a, b in zip(*tensors, strict=True)
    )


@every_builder
@few
@example(size=40, seed=1, dtype=torch.float32)
@given(size=sizes, seed=seeds, dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_any_batch_of_any_dtype_gives_a_valid_graph(name: str, size: int, seed: int, dtype: torch.dtype) -> None:
    check_valid(BUILDERS.build(name).build(nodes(size, seed, dtype)), size)


@every_builder
@pytest.mark.parametrize("what", DEGENERATE)
@pytest.mark.parametrize("size", [1, 2, 9, 33])
def test_degenerate_logits_give_a_valid_graph(name: str, what: str, size: int) -> None:
    logits = DEGENERATE[what](size)
    check_valid(BUILDERS.build(name).build(nodes(size, logits=logits, embedding=logits.repeat(1, 4)[:, :16])), size)


@every_builder
@few
@given(
    what=st.sampled_from([*DEGENERATE, "one class", "all 1e4", "all -1e4"]),
    size=sizes,
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_degenerate_batches_of_any_dtype_give_a_valid_graph(
    name: str, what: str, size: int, dtype: torch.dtype
) -> None:
    values = {"all 1e4": 1e4, "all -1e4": -1e4}
    logits = DEGENERATE[what](size) if what in DEGENERATE else torch.full((size, CLASSES), values.get(what, 1.0))
    given_ = {"labels": torch.zeros(size, dtype=torch.int64)} if what == "one class" else {}
    embedding = logits.repeat(1, 4)[:, :DIM].to(dtype)
    check_valid(BUILDERS.build(name).build(nodes(size, logits=logits.to(dtype), embedding=embedding, **given_)), size)


@every_builder
def test_more_neighbours_than_samples_are_no_error(name: str) -> None:
    options: dict[str, Any] = {option: 100 for option in ("k", "cap") if option in BUILDERS.options(name)}
    check_valid(BUILDERS.build(name, **options).build(nodes(7)), 7)


@every_builder
@few
@given(size=sizes, seed=seeds)
def test_the_same_generator_gives_the_same_graph(name: str, size: int, seed: int) -> None:
    builder = BUILDERS.build(name)
    graphs = [builder.build(nodes(size, seed, generator=seeded(seed))) for _ in range(2)]
    assert same(*graphs)


@every_builder
def test_torchs_own_generator_is_left_alone(name: str) -> None:
    before = torch.get_rng_state()
    BUILDERS.build(name).build(nodes(9))
    assert torch.equal(torch.get_rng_state(), before)


@every_builder
def test_no_gradient_flows_and_no_input_changes(name: str) -> None:
    logits, embedding = normal(0, 12, CLASSES).requires_grad_(), normal(1, 12, 16).requires_grad_()
    batch = nodes(12, logits=logits, embedding=embedding)
    before = [tensor.clone() for tensor in tensors(batch)]
    graph = BUILDERS.build(name).build(batch)
    held = [graph.support, graph.weights, graph.weighted_adjacency]
    assert not any(tensor.requires_grad for tensor in held if tensor is not None)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(batch), strict=True))


@every_builder
def test_without_gradient_mode_it_is_the_same(name: str) -> None:
    builder = BUILDERS.build(name)
    with torch.inference_mode():
        inside = builder.build(nodes(12))
    assert same(inside, builder.build(nodes(12)))


@every_builder
def test_it_has_no_state(name: str) -> None:
    builder = BUILDERS.build(name)
    first = builder.build(nodes(12, 1))
    builder.build(nodes(30, 2))
    assert same(builder.build(nodes(12, 1)), first)


@every_builder
def test_the_smallest_batch_is_a_number(name: str) -> None:
    assert BUILDERS.build(name).min_nodes >= 1


@every_builder
@pytest.mark.gpu
def test_on_a_gpu_nothing_waits_for_the_host_and_the_graph_is_the_same(name: str) -> None:
    builder, there = BUILDERS.build(name), on_gpu(nodes(33))
    builder.build(there)  # whatever CUDA sets up at first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        graph = builder.build(there)
        adjacency = graph.adjacency
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert adjacency.is_cuda
    back = BatchGraph.from_adjacency(adjacency.cpu(), None if graph.support is None else graph.support.cpu())
    check_valid(back, 33)
    if name != "random":  # the generators of two devices differ
        assert torch.equal(back.adjacency, builder.build(nodes(33)).adjacency)


def on_gpu(batch: Nodes) -> Nodes:
    bank = BankOptions().build(TRAIN_LABELS, DIM, seeded(0)).to("cuda")
    moved = {name: tensor.cuda() for name, tensor in vars(batch).items() if isinstance(tensor, Tensor)}
    virtual = None if batch.virtual is None else on_gpu(batch.virtual)
    return Nodes(**moved, bank=bank.view(), generator=seeded(0, "cuda"), virtual=virtual)


def tensors(batch: Nodes) -> list[Tensor]:
    """Every tensor that a builder sees."""
    bank = [] if batch.bank is None else [batch.bank.rows, batch.bank.labels]
    virtual = [] if batch.virtual is None else tensors(batch.virtual)
    return [tensor for tensor in vars(batch).values() if isinstance(tensor, Tensor)] + bank + virtual
