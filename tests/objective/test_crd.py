from __future__ import annotations

from typing import Any

import naive
import pytest
import torch
import torch.nn.functional as F
from golden import Golden, assert_close
from samples import CLASSES, TRAIN_LABELS, TRAIN_SIZE, WIDTHS, batch, seeded
from torch import Tensor

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError
from graphkd.objective.crd import CRD

HEADS = {"embed_s": "student_head", "embed_t": "teacher_head"}


def golden_crd(golden: Golden) -> CRD:
    """CRD with the recorded parameters and banks at the start."""
    banks = golden.under("crd.bank")
    samples, dim = banks["student"].shape
    crd = OBJECTIVES.build(
        "crd",
        student_dim=golden["student.vector"].shape[1],
        teacher_dim=golden["teacher.vector"].shape[1],
        labels=torch.arange(samples) % 2,
        dim=dim,
        sampler="explicit",
    )
    assert isinstance(crd, CRD)
    crd.load_state_dict(
        {
            f"{head}.{kind}": golden[f"crd.param.{recorded}.{kind}"]
            for recorded, head in HEADS.items()
            for kind in ("weight", "bias")
        },
        strict=False,
    )
    crd.student_bank.copy_(banks["student"])
    crd.teacher_bank.copy_(banks["teacher"])
    return crd


def golden_batch(golden: Golden, step: int) -> tuple[DistillationBatch, Tensor]:
    """A recorded batch, and the student's vector whose gradient was recorded."""
    vector, logits = golden["student.vector"].clone().requires_grad_(), golden["student.logits"]
    index = golden[f"crd.step{step}.index"]
    return (
        DistillationBatch(
            student=NetworkOutput(logits, [], vector),
            teacher=NetworkOutput(logits, [], golden["teacher.vector"]),
            labels=index % 2,
            indices=index,
            negatives=golden[f"crd.step{step}.contrast_index"][:, 1:],
        ),
        vector,
    )


def tiny_crd(**options: Any) -> CRD:
    torch.manual_seed(0)
    crd = OBJECTIVES.build(
        "crd", student_dim=WIDTHS["student"], teacher_dim=WIDTHS["teacher"], labels=TRAIN_LABELS,
        **{"dim": 8, "negatives": 12, **options},
    )  # fmt: skip
    assert isinstance(crd, CRD)
    crd.prepare(torch.device("cpu"), lambda name: seeded(len(name)))
    return crd


def other_classes(some: DistillationBatch, count: int) -> Tensor:
    """The first samples of other classes for each sample, int64 [B, count]."""
    rows = [torch.nonzero(label != TRAIN_LABELS).flatten()[:count] for label in some.labels]
    return torch.stack(rows)


def test_equals_the_published_code_over_both_steps() -> None:
    golden = Golden("losses")
    crd = golden_crd(golden)
    for step in range(2):
        some, vector = golden_batch(golden, step)
        loss = crd(some)["crd"]
        loss.backward()
        crd.after_step()
        assert_close(loss, golden[f"crd.step{step}.loss"])
        assert vector.grad is not None
        assert_close(vector.grad, golden[f"crd.step{step}.grad0"])
        assert_close(crd.student_bank, golden[f"crd.step{step}.bank.student"])
        assert_close(crd.teacher_bank, golden[f"crd.step{step}.bank.teacher"])
        assert crd.log_normalizers is not None
        assert_close(crd.log_normalizers.exp(), golden["crd.Z"])


@pytest.mark.parametrize("size", [1, 3, 16])
@pytest.mark.parametrize("count", [1, 12, 60])
def test_equals_the_formula_over_steps(size: int, count: int) -> None:
    crd = tiny_crd(sampler="explicit", temperature=0.2)
    normalizers: list[Tensor] = []
    for turn in range(3):
        some = batch(size, turn)
        assert some.teacher is not None
        negatives = other_classes(some, count)
        student = F.normalize(crd.student_head(some.student.embedding), dim=1)
        teacher = F.normalize(crd.teacher_head(some.teacher.embedding), dim=1)
        directions = [
            (query, bank[some.indices], bank, negatives, 0.2)
            for query, bank in ((student, crd.teacher_bank), (teacher, crd.student_bank))
        ]
        normalizers = normalizers or [naive.nce_normalizer(*each, TRAIN_SIZE).detach() for each in directions]
        expected = sum(naive.nce(*each, z, TRAIN_SIZE) for each, z in zip(directions, normalizers, strict=True))
        given = DistillationBatch(some.student, some.teacher, some.labels, some.indices, negatives)
        torch.testing.assert_close(crd(given)["crd"], expected)
        moved = [
            F.normalize((bank[some.indices] + embedding).detach() / 2, dim=1)
            for bank, embedding in ((crd.student_bank, student), (crd.teacher_bank, teacher))
        ]
        crd.after_step()
        torch.testing.assert_close(crd.student_bank[some.indices], moved[0])
        torch.testing.assert_close(crd.teacher_bank[some.indices], moved[1])


def test_every_sampler_agrees_where_all_negatives_are_drawn() -> None:
    others = TRAIN_SIZE - TRAIN_SIZE // CLASSES
    losses = [
        tiny_crd(sampler=sampler, negatives=others)(batch(6))["crd"]
        for sampler in ("shared", "explicit", "all", "all_weighted")
    ]
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0])


def test_the_first_batch_fixes_the_normalisation_for_good() -> None:
    crd = tiny_crd()
    assert crd.log_normalizers is None
    crd(batch(6))
    fixed = crd.log_normalizers
    assert fixed is not None
    crd.after_step()
    crd(batch(6, seed=1))
    assert crd.log_normalizers is fixed


def test_an_empty_queue_fixes_no_normalisation() -> None:
    crd = tiny_crd(bank={"kind": "queue", "length": 40})
    assert crd(batch(6))["crd"].isfinite()
    assert crd.log_normalizers is None
    crd.after_step()
    crd(batch(6, seed=1))
    assert crd.log_normalizers is not None


def test_a_checkpoint_keeps_banks_and_normalisation() -> None:
    trained, fresh = tiny_crd(), tiny_crd()
    trained(batch(6))
    trained.after_step()
    fresh.load_state_dict(trained.state_dict())
    assert trained.log_normalizers is not None
    assert fresh.log_normalizers is not None
    assert torch.equal(fresh.log_normalizers, trained.log_normalizers)
    assert torch.equal(fresh.student_bank, trained.student_bank)
    assert torch.equal(fresh.teacher_bank, trained.teacher_bank)


def test_both_heads_are_trained() -> None:
    crd = tiny_crd()
    crd(batch(6))["crd"].backward()
    for head in (crd.student_head, crd.teacher_head):
        assert head.weight.grad is not None
        assert head.weight.grad.any()


def test_negatives_handed_in_need_the_explicit_sampler_and_a_full_bank() -> None:
    golden = Golden("losses")
    some, _ = golden_batch(golden, 0)
    with pytest.raises(UserError, match=r"objective 'crd': .* sampler=explicit"):
        small_golden(sampler="shared")(some)
    with pytest.raises(UserError, match=r"objective 'crd': .* not a queue"):
        small_golden(sampler="explicit", bank={"kind": "queue", "length": 50})(some)


def small_golden(**options: Any) -> CRD:
    labels = torch.arange(200) % 2
    crd = OBJECTIVES.build("crd", student_dim=32, teacher_dim=64, labels=labels, dim=4, negatives=8, **options)
    assert isinstance(crd, CRD)
    return crd


@pytest.mark.parametrize(
    ("option", "value"), [("dim", 0), ("temperature", 0.0), ("bank_momentum", 1.5), ("negatives", 0)]
)
def test_an_option_out_of_range_is_named(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{option} is {value}"):
        tiny_crd(**{option: value})


def test_one_class_is_an_error_at_the_start() -> None:
    with pytest.raises(UserError, match="two classes"):
        OBJECTIVES.build("crd", student_dim=4, teacher_dim=4, labels=torch.zeros(9).long())


def test_a_batch_that_is_not_finite_does_not_fix_the_normalisers() -> None:
    crd = tiny_crd()
    broken = batch(16)
    broken.student.embedding.data[0] = torch.nan
    assert not crd(broken)["crd"].isfinite()
    assert crd(batch(16))["crd"].isfinite()
    assert crd.log_normalizers is not None
    assert crd.log_normalizers.isfinite().all()
