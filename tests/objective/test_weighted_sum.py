from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError, WeightedSum
from graphkd.objective import Objective


class Parts(Objective):
    """Two parts, of which a batch below four samples has one."""

    name = "parts"
    parts = ("left", "right")
    needs_teacher = False

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))
        self.steps = 0
        self.streams: list[int] = []

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        values = {"left": batch.student.logits.mean() + self.bias, "right": batch.student.logits.square().mean()}
        return values if len(batch.labels) >= 4 else {"left": values["left"]}

    def prepare(self, device: torch.device, stream: Callable[[str], torch.Generator]) -> None:
        super().prepare(device, stream)
        self.streams.append(stream("negatives").initial_seed())

    def after_step(self) -> None:
        self.steps += 1


class Nothing(Objective):
    """Has a term on no batch at all."""

    name = "nothing"
    needs_teacher = False

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        return {}


def batch(size: int = 6) -> DistillationBatch:
    logits = torch.randn(size, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = NetworkOutput(logits, [], logits)
    return DistillationBatch(
        output, NetworkOutput(logits.detach() + 1, [], logits), torch.arange(size) % 3, torch.arange(size)
    )


def ce() -> Objective:
    return OBJECTIVES.build("ce")


def test_is_the_weighted_sum_of_its_terms() -> None:
    kd = OBJECTIVES.build("kd", temperature=2)
    losses = WeightedSum({"ce": (ce(), 0.25), "soft": (kd, 2.0), "hkd": (Parts(), 0.5)})(batch())
    assert list(losses.raw) == ["ce", "soft", "hkd.left", "hkd.right"]
    weights = {"ce": 0.25, "soft": 2.0, "hkd.left": 0.5, "hkd.right": 0.5}
    for name, weight in weights.items():
        assert torch.equal(losses.weighted[name], weight * losses.raw[name])
    assert torch.allclose(
        losses.total, torch.stack([weight * losses.raw[name] for name, weight in weights.items()]).sum()
    )


def test_an_objective_may_stand_in_it_twice() -> None:
    losses = WeightedSum({"first": (ce(), 1.0), "second": (ce(), -1.0)})(batch())
    assert losses.raw["first"] == losses.raw["second"]
    assert losses.total.item() == 0


def test_parts_may_have_weights_of_their_own() -> None:
    losses = WeightedSum({"term": (Parts(), {"right": 3.0})})(batch())
    assert torch.equal(losses.weighted["term.left"], losses.raw["term.left"])
    assert torch.equal(losses.weighted["term.right"], 3 * losses.raw["term.right"])


def test_a_batch_may_lack_a_part_that_has_a_weight() -> None:
    losses = WeightedSum({"term": (Parts(), {"left": 2.0, "right": 3.0})})(batch(size=2))
    assert set(losses.raw) == {"term.left"}
    assert torch.equal(losses.total, 2 * losses.raw["term.left"])


@pytest.mark.parametrize("weight", [{"rigth": 1.0}, {"left": 1.0, "middle": 0.0}])
def test_a_weight_of_a_part_that_is_not_there_is_an_error_at_the_start(weight: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"the weight of 'term' names the part '(rigth'; did you mean 'right'|middle')"):
        WeightedSum({"term": (Parts(), weight)})


def test_an_objective_of_one_part_may_be_weighted_by_its_name() -> None:
    losses = WeightedSum({"term": (ce(), {"ce": 4.0})})(batch())
    assert torch.equal(losses.weighted["term"], 4 * losses.raw["term"])


def test_a_batch_without_any_term_still_has_a_gradient() -> None:
    shown = batch()
    losses = WeightedSum({"nothing": (Nothing(), 1.0)})(shown)
    losses.total.backward()
    assert losses.total.item() == 0
    assert torch.equal(shown.student.logits.grad, torch.zeros(6, 3))  # type: ignore[arg-type]


def test_its_parameters_and_state_are_those_of_its_objectives() -> None:
    both = WeightedSum({"a": (Parts(), 1.0), "b": (Parts(), 1.0)})
    assert {name for name, _ in both.named_parameters()} == {"objectives.a.bias", "objectives.b.bias"}
    both(batch()).total.backward()
    assert all(parameter.grad is not None for parameter in both.parameters())


def test_each_term_has_streams_of_its_own() -> None:
    first, second = Parts(), Parts()
    asked: list[str] = []

    def stream(name: str) -> torch.Generator:
        asked.append(name)
        return torch.Generator().manual_seed(len(asked))

    WeightedSum({"a": (first, 1.0), "b": (second, 1.0)}).prepare(torch.device("cpu"), stream)
    assert asked == ["negatives/a", "negatives/b"]
    assert (first.streams, second.streams) == ([1], [2])


def test_every_objective_hears_of_an_applied_step() -> None:
    first, second = Parts(), Parts()
    both = WeightedSum({"a": (first, 1.0), "b": (second, 1.0)})
    both.after_step()
    both.after_step()
    assert (first.steps, second.steps) == (2, 2)


def test_needs_a_teacher_if_one_term_does() -> None:
    assert not WeightedSum({"ce": (ce(), 1.0)}).needs_teacher
    assert WeightedSum({"ce": (ce(), 1.0), "kd": (OBJECTIVES.build("kd"), 1.0)}).needs_teacher


@pytest.mark.parametrize("terms", [{}, {"": 1.0}, {"a.b": 1.0}])
def test_names_that_cannot_be_are_refused(terms: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="term"):
        WeightedSum({name: (ce(), weight) for name, weight in terms.items()})


def test_views_that_are_a_number_are_refused_by_name() -> None:
    objective = OBJECTIVES.build("ce")
    objective.views = 2  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"the term 'x': `views` of its class CrossEntropy is 2, but must be a tuple"):
        WeightedSum({"x": (objective, 1.0)})
