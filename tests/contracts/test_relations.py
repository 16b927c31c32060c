"""What every registered relation and discrepancy must do."""

from __future__ import annotations

import itertools
import typing
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import normal
from torch import Tensor

from graphkd import DISCREPANCIES, RELATIONS
from graphkd.discrepancy import Discrepancy
from graphkd.registry import Registry
from graphkd.relation import Relation

EXTREMES = {
    "normal": lambda x: x,
    "equal": lambda x: x[:1].expand_as(x),
    "zero": torch.zeros_like,
    "some zero": lambda x: x * (torch.arange(len(x)) % 2)[:, None],
    "twins": lambda x: torch.cat([x[: (len(x) + 1) // 2], x[: len(x) // 2]]),
    "large": lambda x: 1e4 * x,
    "saturated": lambda x: 1e4 * x.sign(),
    "constant": lambda x: torch.full_like(x, -1e4),
    "tiny": lambda x: 1e-30 * x,
}


def variants(registry: Registry[Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every member with its defaults, and with each other choice and flag by itself."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name in registry.names():
        found.append((name, {}))
        for option in registry.options(name).values():
            values = typing.get_args(option.annotation) or ((not option.default,) if option.annotation is bool else ())
            found += [(name, {option.name: value}) for value in values if value != option.default]
    return found


def label(name: str, options: dict[str, Any]) -> str:
    """The name of a test's case, the same in every process."""
    return " ".join([name, *(f"{option}={value}" for option, value in options.items())])


COMBINATIONS: list[tuple[Relation, Discrepancy]] = [
    (relation, discrepancy)
    for relation, discrepancy in itertools.product(
        [RELATIONS.build(name, **options) for name, options in variants(RELATIONS)],
        [DISCREPANCIES.build(name, **options) for name, options in variants(DISCREPANCIES)],
    )
    if relation.form in discrepancy.takes
]
every_relation = pytest.mark.parametrize(
    "relation",
    [pytest.param(RELATIONS.build(name, **options), id=label(name, options)) for name, options in variants(RELATIONS)],
)


def relate(relation: Relation, rows: Tensor) -> Tensor:
    return relation.relate(relation.represent(rows))


@settings(max_examples=300)
@given(
    parts=st.sampled_from(COMBINATIONS),
    what=st.tuples(st.sampled_from(sorted(EXTREMES)), st.sampled_from(sorted(EXTREMES))),
    size=st.sampled_from([1, 2, 3, 8]),
    same=st.booleans(),
)
def test_values_and_gradients_are_finite_whatever_comes(
    parts: tuple[Relation, Discrepancy], what: tuple[str, str], size: int, same: bool
) -> None:
    relation, discrepancy = parts
    student, teacher = (EXTREMES[kind](normal(seed, size, 5)).clone() for seed, kind in zip((0, 1), what, strict=True))
    if same:
        student = teacher.clone()
    student.requires_grad_()
    loss = discrepancy.compare(relate(relation, student.double()), relate(relation, teacher.double())).float()
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.shape == ()
    assert loss.isfinite()
    assert gradient.isfinite().all()


@every_relation
def test_relations_are_of_the_form_that_is_declared(relation: Relation) -> None:
    rows = normal(0, 6, 4, dtype=torch.float64)
    found = relate(relation, rows)
    assert found.dtype == torch.float64
    assert found.shape[:2] == (6, 6)
    assert (found.dim() == 2) == (relation.form != "tensors")
    if relation.form == "distributions":
        torch.testing.assert_close(found.sum(1), torch.ones(6, dtype=torch.float64))
    assert relation.keeps_width == (found.dim() == 3 and found.shape != relate(relation, rows[:, :3]).shape)


@every_relation
def test_the_order_of_the_rows_does_not_matter(relation: Relation) -> None:
    rows, order = normal(0, 6, 4, dtype=torch.float64), torch.tensor([3, 0, 5, 1, 4, 2])
    expected = relate(relation, rows)[order][:, order]
    if relation.name == "angle":
        expected = expected[:, :, order]
    torch.testing.assert_close(relate(relation, rows[order]), expected)


@every_relation
def test_below_the_fewest_rows_nothing_can_be_learnt_and_from_there_on_something(relation: Relation) -> None:
    size = relation.fewest
    if size > 1:
        one, other = (relate(relation, 3 * normal(seed, size - 1, 4, dtype=torch.float64)) for seed in (0, 1))
        torch.testing.assert_close(one, other)
    one, other = (relate(relation, 3 * normal(seed, size, 4, dtype=torch.float64)) for seed in (0, 1))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize(
    "discrepancy", [DISCREPANCIES.build(name) for name in DISCREPANCIES.names()], ids=DISCREPANCIES.names()
)
def test_a_discrepancy_is_0_between_equals_and_above_0_otherwise(discrepancy: Discrepancy) -> None:
    rows = normal(0, 6, 6, dtype=torch.float64).softmax(1)
    assert discrepancy.compare(rows, rows).item() == pytest.approx(0, abs=1e-12)
    assert discrepancy.compare(rows, rows.flip(0)).item() > 1e-4


@pytest.mark.parametrize("registry", [RELATIONS, DISCREPANCIES], ids=lambda each: each.kind)
def test_a_part_knows_its_name(registry: Registry[Any]) -> None:
    assert [registry.factory(name).name for name in registry.names()] == registry.names()
