from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import WIDTHS, batch, normal
from torch import Tensor, nn

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError
from graphkd.objective.sskd import SSKD

TURNS = 3


def build(seed: int = 0, **options: Any) -> SSKD:
    torch.manual_seed(seed)
    objective = OBJECTIVES.build("sskd", student_dim=WIDTHS["student"], teacher_dim=WIDTHS["teacher"], **options)
    assert isinstance(objective, SSKD)
    return objective


def views(size: int, seed: int = 0) -> DistillationBatch:
    return batch(size, seed, views=SSKD.views)


def softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def projected(head: nn.Sequential, embedding: Tensor) -> list[list[float]]:
    (w1, b1), (w2, b2) = ((head[place].weight.double(), head[place].bias.double()) for place in (0, 2))
    rows: list[list[float]] = ((embedding.double() @ w1.T + b1).clamp_min(0) @ w2.T + b2).tolist()
    return rows


def cosine(a: list[float], b: list[float]) -> float:
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def similarities(head: nn.Sequential, embedding: Tensor, samples: int) -> list[list[float]]:
    rows = projected(head, embedding)
    return [[cosine(turned, unturned) for unturned in rows[:samples]] for turned in rows[samples:]]


def naive(
    student: list[list[float]], teacher: list[list[float]], truth: list[int], temperature: float, keep_wrong: float
) -> float:
    """T^2 KL, mean over the rows that are kept, written out."""
    ranks = [
        sorted(range(len(row)), key=lambda column, row=row: -row[column]).index(right)  # type: ignore[misc]
        for row, right in zip(teacher, truth, strict=True)
    ]
    wrong = sorted((row for row in range(len(ranks)) if ranks[row] > 0), key=lambda row: ranks[row])
    kept = [row for row in range(len(ranks)) if ranks[row] == 0] + wrong[: int(len(wrong) * keep_wrong)]
    total = 0.0
    for row in kept:
        pairs = zip(softmax(teacher[row], temperature), softmax(student[row], temperature), strict=True)
        total += sum(p * math.log(p / q) for p, q in pairs)
    return temperature**2 * total / max(1, len(kept))


@settings(max_examples=40)
@given(
    size=st.integers(1, 9),
    seed=st.integers(0, 99),
    keep_wrong=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    keep_wrong_transfer=st.sampled_from([0.0, 0.5, 1.0]),
    temperatures=st.tuples(st.floats(1, 8), st.floats(0.2, 2)),
)
def test_equals_the_formula(
    size: int, seed: int, keep_wrong: float, keep_wrong_transfer: float, temperatures: tuple[float, float]
) -> None:
    objective = build(
        seed, temperature=temperatures[0], similarity_temperature=temperatures[1],
        keep_wrong=keep_wrong, keep_wrong_transfer=keep_wrong_transfer,
    )  # fmt: skip
    some = views(size, seed)
    assert some.teacher is not None
    found = objective(some)
    transfer = naive(
        some.student.logits[size:].tolist(), some.teacher.logits[size:].tolist(),
        some.labels.tolist() * TURNS, temperatures[0], keep_wrong_transfer,
    )  # fmt: skip
    selfsupervised = naive(
        similarities(objective.student_head, some.student.embedding, size),
        similarities(objective.teacher_head, some.teacher.embedding, size),
        list(range(size)) * TURNS, temperatures[1], keep_wrong,
    )  # fmt: skip
    assert set(found) == {"transfer", "selfsupervised"}
    assert found["transfer"].item() == pytest.approx(transfer, rel=1e-4, abs=1e-5)
    assert found["selfsupervised"].item() == pytest.approx(selfsupervised, rel=1e-4, abs=1e-5)


def logits_alone(student: Tensor, teacher: Tensor, labels: Tensor) -> DistillationBatch:
    """One sample in four views; only the logits matter."""
    outputs = [NetworkOutput(logits, [], normal(0, 4, WIDTHS[side])) for side, logits in
               {"student": student, "teacher": teacher}.items()]  # fmt: skip
    return DistillationBatch(outputs[0], outputs[1], labels, labels, views=SSKD.views)


def test_of_the_teachers_errors_the_smallest_are_kept() -> None:
    """The truth, class 0, comes last, first and second in the teacher's three rows."""
    teacher = torch.tensor([[9.0, 9, 9], [0, 1, 2], [2, 1, 0], [1, 2, 0]])
    student, label = normal(0, 4, 3), torch.tensor([0])
    rows = [
        16
        * torch.nn.functional.kl_div((student[row] / 4).log_softmax(0), (teacher[row] / 4).softmax(0), reduction="sum")
        for row in range(4)
    ]
    for keep, expected in {0.0: [2], 0.5: [2, 3], 1.0: [1, 2, 3]}.items():
        found = build(keep_wrong_transfer=keep)(logits_alone(student, teacher, label))["transfer"]
        assert found.item() == pytest.approx(sum(rows[row].item() for row in expected) / len(expected), rel=1e-5)


def test_where_nothing_is_kept_there_is_nothing_to_learn() -> None:
    teacher = torch.tensor([[0.0, 1, 2]] * 4)
    student = normal(0, 4, 3).requires_grad_()
    term = build(keep_wrong_transfer=0.0)(logits_alone(student, teacher, torch.tensor([0])))["transfer"]
    term.backward()
    assert term.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_equal_errors_go_by_the_lower_index() -> None:
    teacher = torch.tensor([[0.0, 1], [0, 1], [0, 1], [0, 1]])
    student = normal(0, 4, 2).requires_grad_()
    build(keep_wrong_transfer=0.7)(logits_alone(student, teacher, torch.tensor([0])))["transfer"].backward()
    assert student.grad is not None
    assert student.grad.any(1).tolist() == [False, True, True, False]


def test_is_nothing_where_student_and_teacher_agree() -> None:
    some = views(5)
    objective = OBJECTIVES.build("sskd", student_dim=WIDTHS["student"], teacher_dim=WIDTHS["student"])
    assert isinstance(objective, SSKD)
    objective.teacher_head.load_state_dict(objective.student_head.state_dict())
    found = objective(dataclasses.replace(some, teacher=some.student))
    assert all(term.item() == pytest.approx(0, abs=1e-6) for term in found.values())


@pytest.mark.parametrize(("options", "temperature"), [({}, 1.0), ({"stage_temperature": 0.4}, 0.4)])
def test_the_stage_is_a_cross_entropy_that_finds_the_unturned_image(
    options: dict[str, float], temperature: float
) -> None:
    objective, some = build(similarity_temperature=0.7, **options), views(5)
    assert some.teacher is not None
    (stage,) = objective.stages()
    assert (stage.name, stage.epochs, stage.lr, tuple(stage.decay_at)) == ("teacher_head", 60, None, (0.5, 0.75))
    rows = similarities(objective.teacher_head, some.teacher.embedding, 5)
    expected = [-math.log(softmax(row, temperature)[number % 5]) for number, row in enumerate(rows)]
    assert stage.loss(some).item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_the_stage_trains_the_teachers_head_alone_which_is_then_frozen() -> None:
    objective, some = build(), views(6)
    (stage,) = objective.stages()
    optimizer = torch.optim.SGD([p for module in stage.modules for p in module.parameters()], lr=0.5)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = stage.loss(some)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert {name for name, p in objective.named_parameters() if p.grad is not None} == {
        name for name, _ in objective.named_parameters() if name.startswith("teacher_head")
    }
    objective.freeze()
    (group,) = objective.parameter_groups()
    assert {id(p) for p in group["params"]} == {id(p) for p in objective.student_head.parameters()}


def test_no_gradient_flows_into_the_teachers_side() -> None:
    objective, some = build(), views(6)
    torch.stack(list(objective(some).values())).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in objective.teacher_head.parameters())
    assert some.student.embedding.grad is not None
    assert some.student.embedding.grad[:6].any(), "the unturned images are seen too"


def test_a_batch_without_its_views_is_an_error() -> None:
    with pytest.raises(UserError, match="no view 'rotated_90'"):
        build()(batch(5))


@pytest.mark.parametrize(
    ("option", "value"),
    [("temperature", 0.0), ("similarity_temperature", -1.0), ("stage_temperature", 0.0), ("keep_wrong", 1.5),
     ("keep_wrong_transfer", -0.1), ("stage_epochs", 0)],
)  # fmt: skip
def test_an_option_out_of_range_is_named(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{option} is {value}"):
        build(**{option: value})
