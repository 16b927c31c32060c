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
from graphkd.engine.guard import NotFiniteError
from graphkd.engine.resume import Checkpoints
from graphkd.engine.watching import Watcher
from graphkd.model import Network
from graphkd.objective import Objective


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


class Notes(Watcher):
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

    watcher = Look()
    objective = WeightedSum({"spoilt": (Spoilt(1, math.nan), 1.0)})
    fit = trainer(epochs=1, non_finite="skip").fit(student, objective, digits, watcher=watcher)
    assert watcher.notes == ["the loss is nan at step 1 with learning rate 0.05: spoilt is nan; the step is left out"]
    assert math.isfinite(fit.epochs[0].total)
    first, second = watcher.after
    assert all(map(torch.equal, first, second))
    assert fit.steps == 1
