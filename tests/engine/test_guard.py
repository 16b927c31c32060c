"""Losses that are NaN or infinite."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphkd import DistillationBatch, WeightedSum
from graphkd.data import Dataset
from graphkd.engine.callback import Callback
from graphkd.engine.checkpoint import Checkpoints
from graphkd.engine.guard import Guard, NotFiniteError, not_finite
from graphkd.model import Network
from graphkd.objective import Losses, Objective


class Spoilt(Objective):
    """Cross-entropy that is something else in one step."""

    name = "spoilt"
    needs_teacher = False

    def __init__(self, at: int, value: float) -> None:
        super().__init__()
        self.at, self.value, self.steps = at, value, 0

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        loss = nn.functional.cross_entropy(batch.student.logits, batch.labels)
        self.steps += 1
        return {"good": loss, self.name: loss * self.value if self.steps - 1 == self.at else loss}


class Notes(Callback):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_run_stops_before_the_step_and_names_term_step_and_rate(
    digits: Dataset, network: Callable[..., Network], trainer: Callable[..., Any], tmp_path: Path, value: float
) -> None:
    student = network()
    objective = WeightedSum({"spoilt": (Spoilt(3, value), 1.0)})
    message = rf"the loss is {value} at step 3 with learning rate 0\.005: spoilt is {value}"
    with pytest.raises(NotFiniteError, match=message):
        trainer(epochs=2, decay_at=[0.5], checkpoint_every="1 steps").fit(
            student, objective, digits, checkpoints=Checkpoints(tmp_path, "1 steps")
        )
    state, problems = Checkpoints(tmp_path, "1 steps").load()
    assert not problems
    assert state is not None
    assert state["at"] == {"phase": 0, "epoch": 1, "batch": 1}, "the checkpoint before the bad step"
    assert all(value.isfinite().all() for value in state["student"].values() if isinstance(value, Tensor))


def test_a_skipped_step_changes_no_weight_and_counts_in_no_mean(
    digits: Dataset, network: Callable[..., Network], trainer: Callable[..., Any]
) -> None:
    student = network()

    class Look(Notes):
        after: list[list[Tensor]]

        def step(self) -> None:
            self.after = [*getattr(self, "after", []), [p.detach().clone() for p in student.parameters()]]

    callback = Look()
    objective = WeightedSum({"spoilt": (Spoilt(1, math.nan), 1.0)})
    fit = trainer(epochs=1, non_finite="skip").fit(student, objective, digits, callback=callback)
    assert callback.notes == ["the loss is nan at step 1 with learning rate 0.05: spoilt is nan; the step is left out"]
    assert math.isfinite(fit.epochs[0].total)
    first, second = callback.after
    assert all(map(torch.equal, first, second))
    assert fit.steps == 1


class Huge(Objective):
    """A finite loss, whose weighted sum is not where the weight is large."""

    name = "huge"
    needs_teacher = False

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        return {self.name: batch.student.logits.square().mean() + 10}


def test_a_sum_that_is_not_finite_of_terms_that_are_is_told(
    digits: Dataset, network: Callable[..., Network], trainer: Callable[..., Any]
) -> None:
    objective = WeightedSum({"huge": (Huge(), 1e38)})
    with pytest.raises(NotFiniteError, match=r"0\.05: every term is finite, but their weighted sum is not; the last"):
        trainer(epochs=1).fit(network(), objective, digits)


def test_a_training_without_a_step_fails(
    digits: Dataset, network: Callable[..., Network], trainer: Callable[..., Any]
) -> None:
    objective = WeightedSum({"huge": (Huge(), 1e38)})
    with pytest.raises(NotFiniteError, match="no step was applied: every loss was NaN or infinite, or overflowed"):
        trainer(epochs=1, non_finite="skip").fit(network(), objective, digits)


def test_what_waits_to_be_checked_keeps_no_graph() -> None:
    loss = torch.ones((), requires_grad=True) * 2
    guard = Guard(torch.device("cuda"), "stop", Callback())
    guard.check(Losses(loss, {"one": loss}, {"one": loss}), step=0, lr=0.1)
    assert not any(value.requires_grad for _, _, values in guard._unseen for value in values.values())


class Spoils(Objective):
    """Cross-entropy whose step `at` does something to the student or to itself."""

    name = "spoils"
    needs_teacher = False

    def __init__(self, at: int, spoil: Callable[[Spoils], None]) -> None:
        super().__init__()
        self.at, self.spoil, self.steps = at, spoil, 0
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        return {self.name: nn.functional.cross_entropy(batch.student.logits, batch.labels) * self.weight.sum()}

    def after_step(self) -> None:
        if self.steps == self.at:
            self.spoil(self)
        self.steps += 1

    def get_extra_state(self) -> dict[str, Any]:
        return {"bank": {"rows": self.bank if hasattr(self, "bank") else torch.zeros(2, 2)}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        pass


WHERE = {
    "objective.*weight": lambda it: it.weight.data.fill_(math.nan),
    "objective.*mean": lambda it: it.mean.fill_(math.inf),
    "objective.*bank.rows": lambda it: setattr(it, "bank", torch.tensor([[1.0, -math.inf]], dtype=torch.float16)),
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("non_finite", ["stop", "skip"])
def test_a_training_whose_last_step_spoils_anything_fails_and_keeps_its_checkpoint(
    digits: Dataset, network: Callable[..., Network], trainer: Callable[..., Any], tmp_path: Path, where: str,
    non_finite: str,
) -> None:  # fmt: skip
    objective = WeightedSum({"spoils": (Spoils(3, WHERE[where]), 1.0)})
    message = rf"not finite after 4 steps \({where}\); they were last finite after 3 steps; the last checkpoint is kept"
    with pytest.raises(NotFiniteError, match=message):
        trainer(epochs=2, non_finite=non_finite).fit(
            network(), objective, digits, checkpoints=Checkpoints(tmp_path, "1 steps")
        )
    state, _ = Checkpoints(tmp_path, "1 steps").load()
    assert state is not None
    assert state["at"] == {"phase": 0, "epoch": 1, "batch": 1}
    assert not not_finite(state)


@pytest.mark.parametrize(
    "options", [{"lr": 1e38}, {"lr": 1e30}, {"momentum": 1e30, "epochs": 3}, {"ema": 0.5, "lr": 1e38}]
)
@pytest.mark.parametrize("non_finite", ["stop", "skip"])
def test_no_rate_or_momentum_ends_well_with_a_spoilt_network(
    digits: Dataset, network: Callable[..., Network], trainer: Callable[..., Any], options: dict[str, Any],
    non_finite: str, alone: Callable[..., WeightedSum],
) -> None:  # fmt: skip
    with pytest.raises(NotFiniteError):
        trainer(**{"batch_size": 55, "decay_at": [], "non_finite": non_finite, **options}).fit(
            network(), alone(Spoils(-1, print)), digits
        )


def test_a_skipped_step_leaves_statistics_as_they_were(
    digits: Dataset, network: Callable[..., Network], trainer: Callable[..., Any]
) -> None:
    """Else one batch that overflows would spoil the network for good."""
    student = network()

    def overflow(module: nn.Module, images: tuple[Tensor]) -> tuple[Tensor] | None:
        steps.append(1)
        return (images[0] * math.inf,) if len(steps) == 2 and module.training else None

    steps: list[int] = []
    student.register_forward_pre_hook(overflow)
    fit = trainer(epochs=1, non_finite="skip").fit(student, WeightedSum({"x": (Spoils(-1, print), 1.0)}), digits)
    assert fit.steps == 1
    assert not not_finite(student.state_dict())


def test_what_is_not_finite_is_found_in_any_floating_tensor() -> None:
    good = {"a": torch.ones(3), "n": torch.tensor(3), "empty": torch.empty(0), "none": None, "in": {"b": torch.ones(2)}}
    assert not_finite(good) == []
    assert not_finite({}) == []
    assert not_finite({"large": torch.full((4,), 3e38), "double": torch.tensor(1e300, dtype=torch.float64)}) == []
    for value in (math.nan, math.inf, -math.inf):
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            bad = torch.ones(2, 5, dtype=dtype)
            bad[1, 3] = value
            assert not_finite({**good, "in": {"b": bad, "c": torch.ones(())}}) == ["in.b"]
