"""Data and networks that train in a moment, and an objective that remembers what it was shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphkd import DATASETS, MODELS, DistillationBatch, Trainer, WeightedSum
from graphkd.data import Dataset
from graphkd.engine.seeding import initialising
from graphkd.model import Network
from graphkd.objective import Objective

WIDTHS = (2, 2, 4, 4)


class Spy(Objective):
    """Cross-entropy through a trained scale, with a record of all that the trainer tells an objective."""

    name = "spy"
    needs_teacher = False

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.batches: list[DistillationBatch] = []
        self.events: list[str] = []
        self.streams: dict[str, torch.Generator] = {}

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        self.batches.append(batch)
        self.events.append("forward")
        return {self.name: nn.functional.cross_entropy(self.scale * batch.student.logits, batch.labels)}

    def prepare(self, device: torch.device, stream: Callable[[str], torch.Generator]) -> None:
        super().prepare(device, stream)
        self.events.append(f"prepare on {device.type}")
        self.streams = {name: stream(name) for name in ("negatives", "builder")}

    def after_step(self) -> None:
        self.events.append(f"after step at scale {self.scale.item():.9f}")


@pytest.fixture
def spy() -> Spy:
    return Spy()


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """109 training digits: one batch of 64 and one of 45."""
    return DATASETS.build("digits", train_fraction=0.1)


@pytest.fixture
def network() -> Callable[..., Network]:
    """Makes a network of a seed."""

    def make(seed: int = 0, classes: int = 10) -> Network:
        with initialising(seed, "student_init"):
            return MODELS.build("resnet8", num_classes=classes, in_channels=1, widths=WIDTHS)

    return make


@pytest.fixture
def trainer() -> Callable[..., Trainer]:
    """Makes a trainer of two epochs on one thread, with other options where given."""

    def make(**options: Any) -> Trainer:
        return Trainer(**{"epochs": 2, "threads": 1, "accelerator": "cpu", **options})

    return make


@pytest.fixture
def alone() -> Callable[[Objective], WeightedSum]:
    """An objective by itself, with weight 1."""
    return lambda objective: WeightedSum({objective.name: (objective, 1.0)})
