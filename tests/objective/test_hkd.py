from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from golden import Golden, assert_close
from samples import TRAIN_LABELS, TRAIN_SIZE, WIDTHS
from samples import batch as any_batch
from torch import Tensor

from graphkd import BUILDERS, GNNS, OBJECTIVES, BatchGraph, DistillationBatch, NetworkOutput, Nodes, UserError
from graphkd.batch import Progress
from graphkd.builder import GraphBuilder
from graphkd.gnn.none import NoEncoder
from graphkd.objective.hkd import HKD

PARAMETERS = {
    "embed_s.linear": "student_head",
    "embed_t.linear": "teacher_head",
    "gnn_s.tag": "student_gnn.convolutions.0.lin",
    "gnn_t.tag": "teacher_gnn.convolutions.0.lin",
}


def golden_hkd(golden: Golden, engine: str = "auto", **options: Any) -> HKD:
    """HKD with the recorded parameters and banks at the start."""
    dim = int(golden["meta.dim"])
    gnns = [GNNS.build("tag", in_dim=dim, out_dim=dim, hops=1, engine=engine) for _ in range(2)]
    hkd = OBJECTIVES.build(
        "hkd",
        student_dim=golden["step0.student.feature"].shape[1],
        teacher_dim=golden["step0.teacher.feature"].shape[1],
        labels=golden["dataset.labels"],
        builder=BUILDERS.build("knn", k=int(golden["meta.k"])),
        student_gnn=gnns[0],
        teacher_gnn=gnns[1],
        dim=dim,
        negatives=int(golden["meta.negatives"]),
        sampler="explicit",
        **options,
    )
    assert isinstance(hkd, HKD)
    state = dict(hkd.named_parameters())
    for name, value in golden.under("param").items():
        module, _, kind = name.rpartition(".")
        if f"{PARAMETERS[module]}.{kind}" in state:  # without a holistic part there is no encoder
            state[f"{PARAMETERS[module]}.{kind}"].data.copy_(value)
    hkd.student_bank.copy_(golden["bank.student"])
    hkd.teacher_bank.copy_(golden["bank.teacher"])
    return hkd


def golden_batch(golden: Golden, step: int) -> tuple[DistillationBatch, Tensor]:
    """A recorded batch, and the student's feature whose gradient was recorded."""
    values = golden.under(f"step{step}")
    feature = values["student.feature"].clone().requires_grad_()
    return (
        DistillationBatch(
            student=NetworkOutput(values["student.logits"], [], feature),
            teacher=NetworkOutput(values["teacher.logits"], [], values["teacher.feature"]),
            labels=values["labels"],
            indices=values["index"],
            negatives=values["negatives"].long(),
        ),
        feature,
    )


@pytest.mark.parametrize("engine", ["dgl", "dense"])
@pytest.mark.parametrize("case", ["hkd", "hkd_small_batch"])
def test_equals_the_published_code_over_all_steps(case: str, engine: str) -> None:
    golden = Golden(case)
    hkd = golden_hkd(golden, engine)
    for step in range(int(golden["meta.steps"])):
        hkd.zero_grad()
        batch, feature = golden_batch(golden, step)
        loss = torch.stack(list(hkd(batch).values())).sum()
        loss.backward()
        hkd.after_step()
        expected = golden.under(f"step{step}")
        assert_close(loss, expected["loss"])
        assert feature.grad is not None
        assert_close(feature.grad, expected["grad.student.feature"])
        parameters = dict(hkd.named_parameters())
        recorded = {name.removeprefix("grad."): value for name, value in expected.items() if name.startswith("grad.")}
        del recorded["student.feature"]
        for name, value in recorded.items():
            module, _, kind = name.rpartition(".")
            grad = parameters[f"{PARAMETERS[module]}.{kind}"].grad
            assert grad is not None
            assert_close(grad, value)
        assert_close(hkd.student_bank, golden[f"step{step}.bank.student"] if case == "hkd" else golden["bank.student"])
        assert_close(hkd.teacher_bank, golden[f"step{step}.bank.teacher"] if case == "hkd" else golden["bank.teacher"])


def test_a_small_batch_has_no_holistic_term_and_leaves_the_banks_alone() -> None:
    golden = Golden("hkd_small_batch")
    hkd = golden_hkd(golden)
    terms = hkd(golden_batch(golden, 0)[0])
    hkd.after_step()
    assert set(terms) == {"individual"}
    assert torch.equal(hkd.student_bank, golden["bank.student"])


def test_each_term_starts_near_the_logarithm_of_all_candidates() -> None:
    golden = Golden("hkd")
    terms = golden_hkd(golden)(golden_batch(golden, 0)[0])
    chance = 2 * torch.log(golden["meta.negatives"] + 1.0)
    for term in terms.values():
        assert 0.5 * chance < term < 3 * chance


def test_banks_come_back_from_a_checkpoint() -> None:
    golden = Golden("hkd")
    trained, fresh = golden_hkd(golden), golden_hkd(golden)
    trained(golden_batch(golden, 0)[0])
    trained.after_step()
    assert not torch.equal(trained.student_bank, fresh.student_bank)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(trained.student_bank, fresh.student_bank)
    assert torch.equal(trained.teacher_bank, fresh.teacher_bank)


def test_without_teacher_gradient_only_the_student_side_is_trained() -> None:
    golden = Golden("hkd")
    hkd = golden_hkd(golden, teacher_gradient=False)
    batch, _ = golden_batch(golden, 0)
    torch.stack(list(hkd(batch).values())).sum().backward()
    trained = {name.partition(".")[0] for name, parameter in hkd.named_parameters() if parameter.grad is not None}
    assert trained == {"student_head", "student_gnn"}


@pytest.mark.parametrize("part", ["individual", "holistic"])
def test_each_part_can_be_switched_off(part: str) -> None:
    golden = Golden("hkd")
    both = golden_hkd(golden)(golden_batch(golden, 0)[0])
    kept = golden_hkd(golden, **{part: False})(golden_batch(golden, 0)[0])
    assert set(kept) == {"individual", "holistic"} - {part}
    for name, value in kept.items():
        assert torch.equal(value, both[name])


def test_without_a_holistic_part_every_batch_updates_the_banks() -> None:
    golden = Golden("hkd_small_batch")
    hkd = golden_hkd(golden, holistic=False)
    hkd(golden_batch(golden, 0)[0])
    hkd.after_step()
    assert not torch.equal(hkd.student_bank, golden["bank.student"])


def test_negatives_from_the_other_bank_change_the_loss() -> None:
    golden = Golden("hkd")
    own, other = (golden_hkd(golden, negatives_from=choice)(golden_batch(golden, 0)[0]) for choice in ("own", "other"))
    assert not torch.equal(own["individual"], other["individual"])


def test_one_class_is_an_error_at_the_start() -> None:
    with pytest.raises(UserError, match="two classes"):
        OBJECTIVES.build("hkd", student_dim=4, teacher_dim=4, labels=torch.zeros(9).long(), holistic=False)


def test_both_parts_off_is_an_error() -> None:
    labels = torch.arange(9) % 3
    with pytest.raises(UserError, match="both off"):
        OBJECTIVES.build("hkd", student_dim=4, teacher_dim=4, labels=labels, individual=False, holistic=False)


def test_negatives_handed_in_need_the_explicit_sampler() -> None:
    golden = Golden("hkd")
    hkd = OBJECTIVES.build(
        "hkd", student_dim=40, teacher_dim=56, labels=golden["dataset.labels"], holistic=False, dim=24, negatives=8
    )
    with pytest.raises(UserError, match="sampler=explicit"):
        hkd(golden_batch(golden, 0)[0])


def tiny_hkd(labels: Tensor, **options: Any) -> HKD:
    gnns = [GNNS.build("tag", in_dim=8, out_dim=8) for _ in range(2)]
    hkd = OBJECTIVES.build(
        "hkd", student_dim=6, teacher_dim=7, labels=labels, dim=8, negatives=16,
        **{"builder": BUILDERS.build("knn", k=4), **options}, student_gnn=gnns[0], teacher_gnn=gnns[1],
    )  # fmt: skip
    assert isinstance(hkd, HKD)
    return hkd


def random_batch(labels: Tensor, indices: Tensor) -> DistillationBatch:
    size = len(indices)
    return DistillationBatch(
        student=NetworkOutput(torch.randn(size, 3), [], torch.randn(size, 6, requires_grad=True)),
        teacher=NetworkOutput(torch.randn(size, 3), [], torch.randn(size, 7)),
        labels=labels[indices],
        indices=indices,
    )


@pytest.mark.parametrize("sampler", ["shared", "explicit", "all", "all_weighted"])
@pytest.mark.parametrize("size", [1, 3, 4, 20])
def test_a_class_that_holds_almost_all_samples(size: int, sampler: str) -> None:
    labels = torch.zeros(60, dtype=torch.int64)
    labels[-2:] = torch.tensor([1, 2])
    hkd = tiny_hkd(labels, sampler=sampler)
    batch = random_batch(labels, torch.arange(60 - size, 60))
    terms = hkd(batch)
    torch.stack(list(terms.values())).sum().backward()
    assert set(terms) == ({"individual", "holistic"} if size >= 4 else {"individual"})
    assert batch.student.embedding.grad is not None
    assert batch.student.embedding.grad.isfinite().all()


def test_a_shared_encoder_is_trained_from_both_sides() -> None:
    labels = torch.arange(60) % 3
    shared = GNNS.build("gat", in_dim=8, out_dim=8)
    hkd = OBJECTIVES.build(
        "hkd", student_dim=6, teacher_dim=7, labels=labels, dim=8, negatives=16,
        builder=BUILDERS.build("knn", k=4), student_gnn=shared, teacher_gnn=shared,
    )  # fmt: skip
    names = {name.partition(".")[0] for name, _ in hkd.named_parameters()}
    assert names == {"student_head", "teacher_head", "student_gnn"}  # counted once, so stepped once


def test_draws_come_from_the_generators_of_the_run() -> None:
    labels = torch.arange(60) % 3
    first, second = tiny_hkd(labels), tiny_hkd(labels)
    second.load_state_dict(first.state_dict())
    for hkd in (first, second):
        hkd.prepare(torch.device("cpu"), lambda name: torch.Generator().manual_seed(len(name)))
    batch = random_batch(labels, torch.arange(20))
    torch.rand(7)  # what else draws from torch's default generator does not matter
    losses = [hkd(batch) for hkd in (first, second)]
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])


def _between(batch: DistillationBatch, start: int, stop: int) -> DistillationBatch:
    """Some samples of a batch as a batch of their own."""
    assert batch.teacher is not None
    student, teacher = (side.map(lambda tensor: tensor[start:stop]) for side in (batch.student, batch.teacher))
    return dataclasses.replace(
        batch, student=student, teacher=teacher, labels=batch.labels[start:stop], indices=batch.indices[start:stop]
    )


def test_a_local_graph_sees_its_own_part_alone() -> None:
    torch.manual_seed(0)
    gnns = [GNNS.build("tag", in_dim=16, out_dim=16) for _ in range(2)]
    runtime: dict[str, Any] = {"student_dim": 12, "teacher_dim": 20, "labels": TRAIN_LABELS, "dim": 16, "negatives": 16}
    found = {}
    for scope in ("global", "local"):
        torch.manual_seed(1)
        objective = OBJECTIVES.build(
            "hkd", **runtime, builder=BUILDERS.build("knn", k=4), student_gnn=gnns[0], teacher_gnn=gnns[1],
            sampler="all", graph_scope=scope,
        )  # fmt: skip
        whole = any_batch(12)
        found[scope, "one device"] = objective(whole)
        found[scope, "parts"] = objective(dataclasses.replace(whole, parts=(7, 5)))
        found[scope, "too small a part"] = objective(dataclasses.replace(whole, parts=(9, 3)))
        found[scope, "an empty part"] = objective(dataclasses.replace(whole, parts=(12, 0)))

        cuts = [_between(whole, 0, 7), _between(whole, 7, 12)]
        apart = [objective(cut) for cut in cuts]
        found[scope, "by hand"] = {name: (7 * apart[0][name] + 5 * apart[1][name]) / 12 for name in apart[0]}
    for name in ("individual", "holistic"):
        alone = found["global", "one device"][name]
        torch.testing.assert_close(found["global", "parts"][name], alone)
        torch.testing.assert_close(found["local", "one device"][name], alone)
        torch.testing.assert_close(found["local", "an empty part"][name], alone)
        torch.testing.assert_close(found["local", "parts"][name], found["local", "by hand"][name])
    assert not torch.isclose(found["local", "parts"]["holistic"], found["global", "parts"]["holistic"], rtol=1e-4)
    assert set(found["local", "too small a part"]) == {"individual"}


class Watched(GraphBuilder):
    """The graph of all samples and their virtual ones; keeps what it was built from."""

    views = ("weak", "strong")

    def __init__(self) -> None:
        self.seen: list[Nodes] = []
        self.built: list[BatchGraph] = []

    def build(self, nodes: Nodes) -> BatchGraph:
        self.seen.append(nodes)
        assert nodes.virtual is not None
        assert nodes.virtual.embedding is not None
        size = len(nodes.logits)
        adjacency = torch.ones(size, 2 * size, dtype=torch.bool)
        self.built.append(BatchGraph.from_adjacency(adjacency, nodes.virtual.embedding))
        return self.built[-1]


class Encoded(NoEncoder):
    """The embeddings as they are; keeps the graphs."""

    def __init__(self) -> None:
        super().__init__(in_dim=8, out_dim=8)
        self.graphs: list[BatchGraph] = []

    def forward(self, graph: BatchGraph, x: Tensor) -> Tensor:
        self.graphs.append(graph)
        return x


def two_views(size: int = 6) -> DistillationBatch:
    return any_batch(size, views=("weak", "strong"), classes=3)


def watched_hkd(**options: Any) -> tuple[HKD, Watched, Encoded]:
    builder, encoder = Watched(), Encoded()
    hkd = OBJECTIVES.build(
        "hkd", student_dim=WIDTHS["student"], teacher_dim=WIDTHS["teacher"], labels=TRAIN_LABELS % 3, dim=8,
        negatives=16, builder=builder, student_gnn=encoder, teacher_gnn=encoder, **options,
    )  # fmt: skip
    assert isinstance(hkd, HKD)
    return hkd, builder, encoder


@pytest.mark.parametrize(("scope", "sizes"), [("global", [6]), ("local", [4, 2])])
def test_a_builder_of_two_views_gets_the_second_ones_embeddings(scope: str, sizes: list[int]) -> None:
    hkd, builder, _ = watched_hkd(graph_scope=scope)
    some = dataclasses.replace(two_views(), parts=[4, 2])
    assert hkd.views == ("weak", "strong")
    hkd(some)
    assert [len(nodes.logits) for nodes in builder.seen] == 2 * sizes
    assert some.teacher is not None
    sides = [(some.student, hkd.student_head), (some.teacher, hkd.teacher_head)]
    for number, (output, head) in enumerate(sides):
        nodes = builder.seen[number * len(sizes) : (number + 1) * len(sizes)]
        projected = torch.nn.functional.normalize(head(output.embedding), dim=1)
        for start, found in ((0, nodes), (6, [each.virtual for each in nodes])):
            logits, embedding = (torch.cat([getattr(each, name) for each in found]) for name in ("logits", "embedding"))
            assert torch.equal(logits, output.logits[start : start + 6])
            torch.testing.assert_close(embedding, projected[start : start + 6])
            assert not embedding.requires_grad


def test_unreliable_edges_leave_the_graphs_of_both_networks() -> None:
    hkd, builder, encoder = watched_hkd(prune_unreliable=0.8)
    some = two_views()
    hkd(some)
    p = some.student.logits.detach().double().softmax(1)
    entropy = -(p * p.log()).sum(1)
    kept = [
        [i == j or float(entropy[i] + entropy[j]) <= 0.8 * 2 * math.log(3) for j in range(12)] for i in range(6)
    ]  # fmt: skip
    assert 6 < sum(map(sum, kept)) < 72
    assert len(encoder.graphs) == 2
    for graph, built in zip(encoder.graphs, builder.built, strict=True):
        assert graph.adjacency.tolist() == kept
        assert graph.support is built.support


def test_what_the_second_view_is_changes_the_holistic_part_alone() -> None:
    some, gnn = two_views(), GNNS.build("mean", in_dim=8, out_dim=8)
    hkd = OBJECTIVES.build(
        "hkd", student_dim=WIDTHS["student"], teacher_dim=WIDTHS["teacher"], labels=TRAIN_LABELS % 3, dim=8,
        sampler="all", builder=BUILDERS.build("virtual"), student_gnn=gnn, teacher_gnn=gnn,
    )  # fmt: skip
    terms = hkd(some)
    other = dataclasses.replace(some, student=some.student._replace(embedding=some.student.embedding.detach().clone()))
    other.student.embedding[6:] += 1
    changed = hkd(other)
    assert torch.equal(changed["individual"], terms["individual"])
    assert not torch.equal(changed["holistic"], terms["holistic"])
    (gradient,) = torch.autograd.grad(terms["holistic"], some.student.embedding)
    assert gradient[:6].any(1).all()
    assert not gradient[6:].any()


class Banked(GraphBuilder):
    """All samples of the batch, and the banked rows of all training samples in reverse."""

    uses_bank = True

    def __init__(self, is_known: bool = True) -> None:
        self.is_known = is_known

    def build(self, nodes: Nodes) -> BatchGraph:
        assert nodes.bank is not None
        rows = torch.arange(TRAIN_SIZE).flip(0)
        adjacency = torch.ones(len(nodes.logits), len(nodes.logits) + TRAIN_SIZE, dtype=torch.bool)
        return BatchGraph.from_adjacency(adjacency, nodes.bank.rows[rows], rows if self.is_known else None)


def test_banked_samples_are_as_reliable_as_the_student_was_at_their_last_step() -> None:
    encoder = Encoded()
    hkd = OBJECTIVES.build(
        "hkd", student_dim=WIDTHS["student"], teacher_dim=WIDTHS["teacher"], labels=TRAIN_LABELS % 3, dim=8,
        negatives=16, builder=Banked(), student_gnn=encoder, teacher_gnn=encoder, prune_unreliable=0.8,
    )  # fmt: skip
    last = dict.fromkeys(range(TRAIN_SIZE), math.inf)
    seen: dict[int, float] = {}
    # The first step is not applied, the second has two batches; each batch has half of the samples of the one before.
    for turn, (part, is_applied) in enumerate([(0, False), (0, False), (1, True), (0, True), (0, True)]):
        some = any_batch(6, seed=turn, classes=3)
        some = dataclasses.replace(some, indices=torch.arange(6) + 3 * turn, progress=Progress(part=part))
        hkd(some)
        p = some.student.logits.detach().double().softmax(1)
        entropy = (-(p * p.log()).sum(1)).tolist()
        sources = [*entropy, *(last[sample] for sample in reversed(range(TRAIN_SIZE)))]
        kept = [[i == j or entropy[i] + s <= 0.8 * 2 * math.log(3) for j, s in enumerate(sources)] for i in range(6)]
        assert [graph.adjacency.tolist() for graph in encoder.graphs[-2:]] == [kept, kept]
        seen = {**(seen if part else {}), **dict(zip(some.indices.tolist(), entropy, strict=True))}
        if is_applied:
            hkd.after_step()
            last |= seen
    assert any(any(row[6:]) for row in kept)


def test_pruning_needs_to_know_whose_banked_rows_a_graph_has() -> None:
    labels = TRAIN_LABELS % 3
    hkd = tiny_hkd(labels, builder=Banked(is_known=False), prune_unreliable=0.5)
    with pytest.raises(UserError, match="prune_unreliable needs the training samples of banked nodes"):
        hkd(random_batch(labels, torch.arange(6)))


class Given(GraphBuilder):
    """The same graph whatever the nodes are."""

    def __init__(self, graph: BatchGraph) -> None:
        self.graph = graph

    def build(self, nodes: Nodes) -> BatchGraph:
        return self.graph


def test_both_encoders_get_the_teachers_graph() -> None:
    some, knn, gnn = any_batch(12), BUILDERS.build("knn", k=4), GNNS.build("tag", in_dim=8, out_dim=8)
    assert some.teacher is not None
    graph = knn.build(Nodes(some.teacher.logits))
    assert not torch.equal(graph.adjacency, knn.build(Nodes(some.student.logits)).adjacency)
    cases: dict[str, tuple[GraphBuilder, str]] = {
        "teacher's": (knn, "teacher"), "given": (Given(graph), "own"), "own": (knn, "own"),
    }  # fmt: skip
    holistic = {}
    for case, (builder, source) in cases.items():
        torch.manual_seed(0)
        hkd = OBJECTIVES.build(
            "hkd", student_dim=WIDTHS["student"], teacher_dim=WIDTHS["teacher"], labels=TRAIN_LABELS, dim=8,
            sampler="all", builder=builder, student_gnn=gnn, teacher_gnn=gnn, graphs_from=source,
        )  # fmt: skip
        holistic[case] = hkd(some)["holistic"]
    assert torch.equal(holistic["teacher's"], holistic["given"])
    assert not torch.equal(holistic["teacher's"], holistic["own"])


@pytest.mark.parametrize("scope", ["global", "local"])
def test_a_random_graph_can_be_the_same_for_both_networks(scope: str) -> None:
    for source, same in (("own", False), ("teacher", True)):
        encoder = Encoded()
        hkd = OBJECTIVES.build(
            "hkd", student_dim=WIDTHS["student"], teacher_dim=WIDTHS["teacher"], labels=TRAIN_LABELS, dim=8,
            negatives=16, builder=BUILDERS.build("random", k=4), student_gnn=encoder, teacher_gnn=encoder,
            graphs_from=source, graph_scope=scope,
        )  # fmt: skip
        hkd.prepare(torch.device("cpu"), lambda name: torch.Generator().manual_seed(len(name)))
        hkd(dataclasses.replace(any_batch(12), parts=(7, 5)))
        half = len(encoder.graphs) // 2
        for student, teacher in zip(encoder.graphs[:half], encoder.graphs[half:], strict=True):
            assert torch.equal(student.adjacency, teacher.adjacency) is same


@pytest.mark.parametrize("builder", ["bank_knn", "virtual"])
def test_the_teachers_graph_of_a_builder_that_adds_nodes_is_an_error(builder: str) -> None:
    with pytest.raises(UserError, match="this builder adds nodes with the teacher's embeddings"):
        tiny_hkd(torch.arange(60) % 3, builder=BUILDERS.build(builder), graphs_from="teacher")


def test_a_skipped_step_leaves_nothing_for_the_next_small_batch() -> None:
    golden = Golden("hkd_small_batch")
    hkd = golden_hkd(golden)
    large, _ = golden_batch(Golden("hkd"), 0)
    hkd.builder = BUILDERS.build("knn", k=1)
    hkd(large)  # its step is not applied, so `after_step` is not called
    hkd.builder = BUILDERS.build("knn", k=int(golden["meta.k"]))
    hkd(golden_batch(golden, 0)[0])
    hkd.after_step()
    assert torch.equal(hkd.student_bank, golden["bank.student"])
