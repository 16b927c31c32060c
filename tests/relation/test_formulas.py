"""Relations equal loops written from their formulas, with their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from samples import normal
from torch import Tensor

from graphkd import RELATIONS, UserError

Loop = Callable[[Sequence[Tensor]], Tensor]


def pairs(entry: Callable[[Tensor, Tensor], Tensor]) -> Loop:
    """The loop over all pairs of rows."""
    return lambda rows: torch.stack([torch.stack([entry(a, b) for b in rows]) for a in rows])


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())


def distance(a: Tensor, b: Tensor) -> Tensor:
    return torch.zeros((), dtype=a.dtype) if a is b else dot(a - b, a - b).sqrt()


def normalised(rows: Sequence[Tensor]) -> Tensor:
    gram = pairs(dot)(rows)
    return torch.stack([row / dot(row, row).sqrt() for row in gram])


def probable(rows: Sequence[Tensor]) -> Tensor:
    values = pairs(lambda a, b: (cosine(a, b) + 1) / 2)(rows)
    return torch.stack([row / row.sum() for row in values])


def over_mean(rows: Sequence[Tensor]) -> Tensor:
    found = pairs(distance)(rows)
    return found / (found.sum() / (len(rows) * (len(rows) - 1)))


def over_largest(rows: Sequence[Tensor]) -> Tensor:
    found = pairs(distance)(rows) ** 2
    return found / found.max()


def angles(rows: Sequence[Tensor]) -> Tensor:
    zero = torch.zeros((), dtype=rows[0].dtype)

    def angle(i: int, j: int, k: int) -> Tensor:
        return zero if i in (j, k) else cosine(rows[j] - rows[i], rows[k] - rows[i])

    size = range(len(rows))
    return torch.stack([torch.stack([torch.stack([angle(i, j, k) for k in size]) for j in size]) for i in size])


def unit_difference(a: Tensor, b: Tensor) -> Tensor:
    return torch.zeros_like(a) if a is b else (a - b) / distance(a, b)


def softmax(row: Tensor) -> Tensor:
    powers = (row / 4).exp()
    return powers / powers.sum()


CASES: list[tuple[str, dict[str, Any], Loop]] = [
    ("gram", {"normalize": "none"}, pairs(dot)),
    ("gram", {"normalize": "rows"}, normalised),
    ("gram", {}, pairs(cosine)),
    ("gram", {"normalize": "probabilities"}, probable),
    ("distance", {"normalize": "none"}, pairs(distance)),
    ("distance", {}, over_mean),
    ("distance", {"normalize": "max", "squared": True}, over_largest),
    ("angle", {}, angles),
    ("difference", {}, pairs(unit_difference)),
    ("difference", {"unit": False}, pairs(lambda a, b: a - b)),
    ("probability_gram", {}, lambda rows: pairs(dot)([softmax(row) for row in rows])),
]


@pytest.mark.parametrize(("name", "options", "loop"), CASES, ids=lambda case: str(case) if not callable(case) else "")
@pytest.mark.parametrize("size", [3, 6])
def test_equals_the_formula_with_its_gradient(name: str, options: dict[str, Any], loop: Loop, size: int) -> None:
    rows = (3 * normal(size, size, 7, dtype=torch.float64)).requires_grad_()
    relation = RELATIONS.build(name, **options)
    found, expected = relation.relate(relation.represent(rows)), loop(list(rows))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    weights = normal(1, *expected.shape, dtype=torch.float64)
    gradient, reference = (torch.autograd.grad((of * weights).sum(), rows)[0] for of in (found, expected))
    torch.testing.assert_close(gradient, reference, rtol=1e-8, atol=1e-10)


def test_probabilities_between_classes_are_those_of_the_samples() -> None:
    logits = normal(0, 5, 3, dtype=torch.float64)
    relation = RELATIONS.build("probability_gram", temperature=2.0)
    p = torch.softmax(logits / 2, dim=1)
    torch.testing.assert_close(relation.relate(relation.represent(logits).T), p.T @ p)


def test_distributions_sum_to_1() -> None:
    rows = normal(0, 5, 3, dtype=torch.float64)
    for name in ("gram", "probability_gram"):
        relation = RELATIONS.build(name, normalize="probabilities")
        found = relation.relate(relation.represent(rows))
        assert (found >= 0).all()
        torch.testing.assert_close(found.sum(1), torch.ones(5, dtype=torch.float64))


def test_a_temperature_that_is_not_positive_is_named() -> None:
    with pytest.raises(UserError, match=r"temperature is 0\.0"):
        RELATIONS.build("probability_gram", temperature=0)
