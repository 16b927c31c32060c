"""The baseline is what the benchmark says it is: the published HKD, in numbers and in its draws."""

from __future__ import annotations

import pytest
import torch
from golden import Golden, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import normal, seeded
from torch import Tensor

from graphkd.batch import DistillationBatch, NetworkOutput
from graphkd.bench import published
from graphkd.bench.published import PerImage, PublishedHKD, Sampler, load
from graphkd.builder import BUILDERS
from graphkd.gnn import GNNS
from graphkd.objective import OBJECTIVES
from graphkd.objective.hkd import HKD

RECORDED = {
    "embed_s.linear": "heads.0",
    "embed_t.linear": "heads.1",
    "gnn_s.tag": "encoders.0.lin",
    "gnn_t.tag": "encoders.1.lin",
}


def golden_hkd(golden: Golden) -> PublishedHKD:
    """The baseline with the recorded parameters and banks at the start."""
    widths = [golden[f"step0.{side}.feature"].shape[1] for side in ("student", "teacher")]
    hkd = PublishedHKD(
        *widths, samples=len(golden["bank.student"]), dim=int(golden["meta.dim"]), k=int(golden["meta.k"])
    )
    state = {ours(name): value for name, value in golden.under("param").items()}
    hkd.load_state_dict(state | {f"{side}_bank": golden[f"bank.{side}"] for side in ("student", "teacher")})
    return hkd


def ours(recorded: str) -> str:
    """Our name of a recorded parameter."""
    module, _, kind = recorded.rpartition(".")
    return f"{RECORDED[module]}.{kind}"


def batch_of(step: dict[str, Tensor]) -> DistillationBatch:
    """A recorded batch, whose student's embedding takes gradient."""
    return DistillationBatch(
        student=NetworkOutput(step["student.logits"], [], step["student.feature"].clone().requires_grad_()),
        teacher=NetworkOutput(step["teacher.logits"], [], step["teacher.feature"]),
        labels=step["labels"],
        indices=step["index"],
        negatives=step["negatives"].long(),
    )


@pytest.mark.parametrize("dgl_knows_the_device", [True, False])
@pytest.mark.parametrize("case", ["hkd", "hkd_small_batch"])
def test_reproduces_the_recorded_steps(case: str, dgl_knows_the_device: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "dgl_supports", lambda device: dgl_knows_the_device)
    golden = Golden(case)
    hkd = golden_hkd(golden)
    for number in range(int(golden["meta.steps"])):
        hkd.zero_grad()
        step = golden.under(f"step{number}")
        batch = batch_of(step)
        loss = hkd(batch)
        loss.backward()
        hkd.after_step()
        assert_close(loss, step["loss"])
        assert batch.student.embedding.grad is not None
        assert_close(batch.student.embedding.grad, step.pop("grad.student.feature"))
        parameters = dict(hkd.named_parameters())
        for name in [name for name in step if name.startswith("grad.")]:
            grad = parameters[ours(name.removeprefix("grad."))].grad
            assert grad is not None
            assert_close(grad, step[name])
        for side, bank in zip(("student", "teacher"), hkd.banks, strict=True):
            assert_close(bank, step.get(f"bank.{side}", golden[f"bank.{side}"]))


@given(
    batch=st.integers(1, 20), negatives=st.integers(1, 70), dim=st.integers(2, 12), k=st.integers(1, 9),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=15)
def test_the_fast_hkd_equals_it_in_float64(batch: int, negatives: int, dim: int, k: int, seed: int) -> None:
    torch.manual_seed(seed)
    labels = torch.arange(60) % 3
    baseline = PublishedHKD(7, 9, samples=60, dim=dim, k=k).double()
    gnns = [GNNS.build("tag", in_dim=dim, out_dim=dim) for _ in range(2)]
    hkd = OBJECTIVES.build(
        "hkd", student_dim=7, teacher_dim=9, labels=labels, builder=BUILDERS.build("knn", k=k),
        student_gnn=gnns[0], teacher_gnn=gnns[1], dim=dim, negatives=negatives, sampler="explicit",
    ).double()  # fmt: skip
    assert isinstance(hkd, HKD)
    sides = zip((hkd.student_head, hkd.teacher_head), baseline.heads, gnns, baseline.encoders, strict=True)
    for head, published_head, gnn, encoder in sides:
        head.load_state_dict(published_head.state_dict())
        gnn.convolutions[0].load_state_dict(encoder.state_dict())
    for bank, rows in ((hkd._student_bank, baseline.banks[0]), (hkd._teacher_bank, baseline.banks[1])):
        bank.rows = rows.clone()
    indices = torch.randperm(60, generator=seeded(seed))[:batch]
    drawn = Sampler(labels, negatives, seed).draw(labels[indices])
    embedding = normal(seed, batch, 7, dtype=torch.float64).requires_grad_()
    given_batch = DistillationBatch(
        student=NetworkOutput(3 * normal(seed + 1, batch, 5, dtype=torch.float64), [], embedding),
        teacher=NetworkOutput(
            3 * normal(seed + 2, batch, 5, dtype=torch.float64), [], normal(seed + 3, batch, 9, dtype=torch.float64)
        ),
        labels=labels[indices],
        indices=indices,
        negatives=drawn,
    )
    expected = baseline(given_batch)
    found = torch.stack(list(hkd(given_batch).values())).sum()
    # A loss near 0 has a value and gradients of the size of rounding errors.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    ours, theirs = (torch.autograd.grad(loss, embedding)[0] for loss in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13 + 1e-10 * float(theirs.abs().max()))
    baseline.after_step()
    hkd.after_step()
    assert_close(hkd.student_bank, baseline.banks[0], 1e-12)
    assert_close(hkd.teacher_bank, baseline.banks[1], 1e-12)


def test_the_sampler_draws_without_replacement_from_other_classes() -> None:
    labels = torch.tensor([0] * 10 + [1] * 20 + [2] * 5)
    anchors = torch.tensor([0, 1, 2, 1])
    drawn = Sampler(labels, 12, seed=0).draw(anchors)
    assert drawn.shape == (4, 12)
    assert bool((labels[drawn] != anchors[:, None]).all())
    assert [len(row.unique()) for row in drawn] == [12] * 4
    assert not torch.equal(drawn[1], drawn[3])


def test_the_sampler_repeats_where_the_pool_is_too_small() -> None:
    labels = torch.tensor([0, 0, 1])
    drawn = Sampler(labels, 4, seed=0).draw(torch.tensor([0, 1]))
    assert drawn[0].tolist() == [2] * 4
    assert set(drawn[1].tolist()) <= {0, 1}


def test_the_graph_holds_each_sample_itself_even_where_all_are_alike() -> None:
    sources, targets = published.knn_edges(torch.full((9, 4), 50.0), k=3)
    assert targets.bincount().tolist() == [3] * 9
    assert int((sources == targets).sum()) == 9


def test_its_data_set_crops_normalises_and_draws_for_each_image() -> None:
    images = torch.full((6, 3, 8, 8), 255, dtype=torch.uint8)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    sampler = Sampler(labels, 3, seed=0)
    dataset = PerImage(images, labels, ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), sampler)
    batches = load(dataset, batch=2, batches=3, workers=0)
    seen = []
    for _ in range(3):
        pixels, classes, indices, negatives = next(batches)
        assert pixels.shape == (2, 3, 8, 8)
        assert set(pixels.unique().tolist()) <= {-2.0, 2.0}  # padding, and the images
        assert torch.equal(classes, labels[indices])
        assert bool((labels[negatives] != classes[:, None]).all())
        seen += indices.tolist()
    assert sorted(seen) == list(range(6))
    assert len(next(batches)) == 4
    assert len(PerImage(images, labels, ((0.5,) * 3, (0.25,) * 3), None)[0]) == 3


def test_its_strong_view_is_made_from_the_weak_one() -> None:
    ramps = torch.arange(0, 256, 4, dtype=torch.uint8).view(1, 1, 8, 8).expand(40, 3, 8, 8)
    dataset = PerImage(ramps, torch.zeros(40), ((0.5,) * 3, (0.25,) * 3), None, strong=True)
    views = torch.stack([dataset[index][0] for index in range(40)])
    assert views.shape == (40, 2, 3, 8, 8)
    unchanged = (views[:, 0] == views[:, 1]).flatten(1).all(1)
    assert 0 < int((~unchanged).sum()) < 40  # the identity is one of the operations
