"""What objectives say before a training in which they would teach nothing, and that it is so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from samples import MAPS, WIDTHS, batch, normal

from graphkd import BUILDERS, GNNS, OBJECTIVES, DistillationBatch, NetworkOutput
from graphkd.contrast.options import BankOptions
from graphkd.errors import UserError
from graphkd.objective import Objective, WeightedSum
from graphkd.objective.base import Setting

LABELS = torch.arange(200) % 10


def setting(batch_size: int = 64, classes: int = 10, processes: int = 1) -> Setting:
    return Setting(LABELS % classes, classes, batch_size, processes)


def logits_batch(size: int, classes: int) -> DistillationBatch:
    student = NetworkOutput(normal(0, size, classes).requires_grad_(), [], normal(1, size, 6).requires_grad_())
    teacher = NetworkOutput(normal(2, size, classes), [], normal(3, size, 8))
    return DistillationBatch(student, teacher, torch.arange(size) % classes, torch.arange(size))


def gradient(objective: Objective, some: DistillationBatch) -> float:
    """The largest entry of the gradient of all terms by logits and embedding."""
    tensors = [some.student.logits, some.student.embedding]
    total = torch.stack(list(objective(some).values())).sum()
    found = torch.autograd.grad(total, tensors, allow_unused=True)
    return max(float(each.abs().max()) for each in found if each is not None)


@pytest.mark.parametrize(
    ("name", "options", "size", "classes", "enough", "said"),
    [
        ("lskd", {}, 8, 2, (8, 3), "two classes"),
        ("dist", {"intra": 0.0}, 8, 2, (8, 3), "`inter`"),
        ("dist", {"inter": 0.0}, 2, 5, (3, 5), "`intra`"),
        ("dist", {"inter": 0.0}, 1, 5, (3, 5), "`intra`"),
        ("dkd", {"alpha": 0.0, "ramp_epochs": 0}, 8, 2, (8, 3), "NCKD"),
        ("rkd", {"angle": 0.0}, 2, 5, (3, 5), "`distance`"),
        ("rkd", {"distance": 0.0}, 2, 5, (3, 5), "`angle`"),
        ("pkt", {}, 1, 5, (2, 5), "one sample"),
        ("cc", {"student_dim": 6, "teacher_dim": 8}, 1, 5, (2, 5), "one sample"),
    ],
)  # fmt: skip
def test_what_teaches_nothing_is_said_and_only_that(
    name: str, options: dict[str, Any], size: int, classes: int, enough: tuple[int, int], said: str
) -> None:
    objective = OBJECTIVES.build(name, **options)
    (note,) = objective.notes(setting(size, classes))
    assert said in note
    assert gradient(objective, logits_batch(size, classes)) < 1e-4
    assert not objective.notes(setting(*enough))
    assert gradient(objective, logits_batch(*enough)) > 1e-4


def test_sp_on_one_sample() -> None:
    objective = OBJECTIVES.build("sp")
    assert "one sample" in objective.notes(setting(1))[0]
    assert not objective.notes(setting(2))


@pytest.mark.parametrize(
    ("name", "options"),
    [("dist", {"inter": 0.0, "intra": 0.0}), ("dkd", {"alpha": 0.0, "beta": 0.0}),
     ("rkd", {"distance": 0.0, "angle": 0.0})],
)  # fmt: skip
def test_weights_that_are_all_0_are_said(name: str, options: dict[str, float]) -> None:
    assert "teaches nothing" in OBJECTIVES.build(name, **options).notes(setting())[0]


@pytest.mark.parametrize("name", ["at", "nst", "ft"])
def test_maps_of_one_position_are_said(name: str) -> None:
    maps = [(4, 8, 8), (4, 4, 4), (6, 1, 1)]
    options = {"student_shapes": maps, "teacher_shapes": MAPS["teacher"][:3]}
    assert "down to one position" in OBJECTIVES.build(name, **options).notes(setting())[0]
    options["student_shapes"] = MAPS["student"][:3]
    assert not OBJECTIVES.build(name, **options).notes(setting())


def hkd(builder: str = "knn", builder_options: dict[str, Any] | None = None, **options: Any) -> Objective:
    built = BUILDERS.build(builder, **(builder_options or {}))
    gnn = GNNS.build("tag", in_dim=8, out_dim=8)
    dims = {f"{side}_dim": width for side, width in WIDTHS.items()}
    graph = {"builder": built, "student_gnn": gnn, "teacher_gnn": gnn}
    return OBJECTIVES.build("hkd", **dims, labels=LABELS, **graph, **{"dim": 8, "negatives": 16, **options})


@pytest.mark.parametrize(
    ("objective", "given", "said"),
    [
        (hkd(), setting(7), "7 samples, but the builder's graphs need 8, so there is no holistic term"),
        (hkd(graph_scope="local"), setting(30, processes=4), "a process's part of a batch has 7"),
        (hkd("complete"), setting(1), "no edges but self loops"),
        (hkd("knn", {"k": 1}), setting(), "k is 1"),
        (hkd("random", {"k": 1}), setting(), "k is 1"),
        (hkd("label_aware", {"k": 1}), setting(), "k is 1"),
        (hkd("threshold", {"cap": 1}), setting(), "cap is 1"),
        (hkd("label_aware"), setting(2), "alone of their class"),
        (hkd("bank_knn", {"k": 202}), setting(), "at most 199 other samples in the training set"),
        (hkd("bank_knn", {"k": 22, "same_label_only": True}), setting(), "at most 19 other samples of"),
        (hkd(negatives=181), setting(), "just 180 of another class"),
        (hkd(bank_momentum=1.0), setting(), "bank_momentum is 1"),
        (hkd(bank=BankOptions(kind="queue", length=32)), setting(), "bank.length is 32"),
    ],
)  # fmt: skip
def test_a_graph_or_bank_that_is_not_as_asked_for_is_said(objective: Objective, given: Setting, said: str) -> None:
    (note,) = objective.notes(given)
    assert said in note


@pytest.mark.parametrize(
    "objective",
    [
        hkd(), hkd(holistic=False), hkd(negatives=180), hkd(negatives=500, sampler="all"), hkd("label_aware"),
        hkd("bank_knn", {"k": 200}), hkd(bank=BankOptions(kind="queue", length=64)),
    ],
)  # fmt: skip
def test_nothing_is_said_where_all_is_well(objective: Objective) -> None:
    assert not objective.notes(setting())


def test_without_its_graph_hkd_has_no_holistic_term() -> None:
    assert set(hkd()(batch(7))) == {"individual"}


def test_a_sum_names_the_terms_and_those_that_weigh_nothing() -> None:
    parts = {"individual": 0.0, "holistic": 0.0}
    terms = WeightedSum(
        {"ce": (OBJECTIVES.build("ce"), 0.0), "a": (hkd(), parts), "b": (hkd(), {"individual": 0.0}),
         "l": (OBJECTIVES.build("lskd"), 1.0)}
    )  # fmt: skip
    notes = terms.notes(setting(classes=2))
    assert [note.partition(":")[0] for note in notes] == ["objective.ce", "objective.a", "objective.l"]


@pytest.mark.parametrize("name", ["hkd", "crd"])
def test_negatives_beyond_the_memory_are_refused(name: str) -> None:
    for sampler, negatives, fits in (
        ("explicit", 2**31 - 1, False),
        ("explicit", 64, True),
        ("shared", 2**31 - 1, True),
    ):
        given = {"labels": LABELS, "student_dim": 6, "teacher_dim": 8, "sampler": sampler, "negatives": negatives}
        graph = {"holistic": False} if name == "hkd" else {}
        total = WeightedSum({"a": (OBJECTIVES.build(name, **given, **graph), 1.0)})
        if fits:
            total.check(setting())
            continue
        with pytest.raises(
            UserError, match=f"objective '{name}': negatives is 2147483647, which for a batch of 64 takes"
        ):
            total.check(setting())
