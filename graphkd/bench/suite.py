"""Cases of the methods of Table 1: each under a teacher of its own, and all of them on one feed."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from functools import partial
from typing import Any

from graphkd.bench.case import Case, Settings, Sides, Work
from graphkd.bench.data import IMAGE_SIZE, batched
from graphkd.bench.stepwise import ENDLESS
from graphkd.bench.training import network
from graphkd.binding import options_of
from graphkd.builder import BUILDERS
from graphkd.data import Dataset
from graphkd.engine.feed import Feed, Request
from graphkd.engine.loop import Position, TrainingLoop
from graphkd.engine.trainer import Trainer
from graphkd.gnn import GNNS
from graphkd.model import Network, output_shapes
from graphkd.objective import OBJECTIVES, Objective, WeightedSum

WEIGHTS: dict[str, Mapping[str, float]] = {
    "student": {"ce": 1.0},
    "kd": {"ce": 0.1, "kd": 0.9},
    "at_kd": {"ce": 0.1, "kd": 0.9, "at": 1000.0},
    "pkt_kd": {"ce": 0.1, "kd": 0.9, "pkt": 30_000.0},
    "sp_kd": {"ce": 0.1, "kd": 0.9, "sp": 3000.0},
    "cc_kd": {"ce": 0.1, "kd": 0.9, "cc": 0.02},
    "rkd_kd": {"ce": 0.1, "kd": 0.9, "rkd": 1.0},
    "crd_kd": {"ce": 0.1, "kd": 0.9, "crd": 0.8},
    "hkd": {"ce": 1.0, "hkd": 3.0},
    "hkd_kd": {"ce": 0.1, "kd": 0.9, "hkd": 3.0},
}
"""The terms of each row of Table 1 but SSKD's, which alone looks at several views."""


def suite_cases(settings: Settings) -> list[Case]:
    """Return a step of every method of Table 1."""
    note = f"{settings.teacher} -> {settings.student}; a step of each method, in the baseline one after another alone"
    return [
        Case("suite", partial(suite, settings, [*WEIGHTS]), note, quick=False, memory="full", held=True),
        Case("suite", partial(suite, settings, [*WEIGHTS, "sskd"]), note, quick=False, memory="full", held=True),
    ]


def suite(settings: Settings, methods: list[str]) -> Sides:
    """Return a step of each method, alone and together."""
    teacher, dataset = network(settings.teacher, settings), batched(settings)

    def side(groups: list[list[str]]) -> Work:
        """Return a step of these groups, which are made before the first, so that memory is that of one side."""
        made = functools.cache(lambda: [_Group(settings, group, teacher, dataset) for group in groups])

        def step() -> None:
            for group in made():
                group.step()

        return step

    name = f"{len(methods)} methods{', SSKD too' * ('sskd' in methods)}"
    return Sides(side([[method] for method in methods]), {name: side([methods])})


class _Group:
    """Methods that train together, a step at a time."""

    def __init__(self, settings: Settings, methods: list[str], teacher: Network, dataset: Dataset) -> None:
        trainer = Trainer(
            epochs=ENDLESS, eval_every=ENDLESS, batch_size=settings.batch, lr=1e-6, accelerator=settings.device,  # type: ignore[arg-type]
            threads=settings.threads,
        )  # fmt: skip
        fabric, teacher = trainer.fabric(), copy.deepcopy(teacher)
        self._feed = Feed(trainer, fabric, dataset, teacher, settings.seed)
        self._running = []
        for method in methods:
            student = network(settings.student, settings)
            objective = _objective(settings, method, student, teacher)
            loop = TrainingLoop(
                trainer, fabric, student, objective, dataset, teacher=None if method == "student" else teacher
            )
            loop.position = Position(len(loop.stages))
            self._running.append(loop.run())
        self._requests: list[Request] = [next(running) for running in self._running]

    def step(self) -> None:
        """Take a step of each method."""
        waiting = list(self._requests)
        for at, running in enumerate(self._running):
            self._requests[at] = running.send(self._feed.get(waiting[at], waiting[at:]))


def _objective(settings: Settings, method: str, student: Network, teacher: Network) -> WeightedSum:
    runtime: dict[str, Any] = {"labels": settings.training_labels(), "num_classes": settings.classes}
    for side, its in {"student": student, "teacher": teacher}.items():
        shapes = output_shapes(its, 3, IMAGE_SIZE)
        runtime |= {f"{side}_dim": shapes.embedding, f"{side}_shapes": shapes.features}
    weights = {"sskd": 1.0} if method == "sskd" else WEIGHTS[method]
    return WeightedSum({name: (_term(settings, name, runtime), weight) for name, weight in weights.items()})


def _term(settings: Settings, name: str, runtime: Mapping[str, Any]) -> Objective:
    known = options_of(OBJECTIVES.factory(name))
    given = {**runtime, "negatives": settings.negatives, "dim": settings.dim}
    if "builder" in known:
        dims = {"in_dim": settings.dim, "out_dim": settings.dim}
        gnns = {f"{side}_gnn": GNNS.build("tag", **dims) for side in ("student", "teacher")}
        given |= {"builder": BUILDERS.build("knn", k=settings.k), **gnns}
    return OBJECTIVES.build(name, **{key: value for key, value in given.items() if key in known})
