"""Build the networks and the objective of a run from its parts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch

from graphkd.batch import NetworkOutput
from graphkd.binding import options_of
from graphkd.data import Dataset, DatasetInfo
from graphkd.engine.seeding import initialising
from graphkd.errors import UserError, one_line
from graphkd.model import Network
from graphkd.model.base import shapes_of, trial_output
from graphkd.objective import OBJECTIVES, Objective, WeightedSum
from graphkd.run.part import Part, Term

SHARED: Literal["shared"] = "shared"
"""Name that makes the teacher's encoder the student's own."""
STAND_INS = {"labels": torch.arange(100), "num_classes": 100, "student_dim": 256, "teacher_dim": 256}
"""Stand-ins for run-time arguments, to check an objective's options before networks and data exist."""


def build_network(model: Part, data: Dataset | DatasetInfo, seed: int) -> Network:
    """Build a network for the classes and channels of some data, initialised from the seed."""
    with _of_bearable_size(f"model '{model.name}'"), initialising(seed, "student_init"):
        network: Network = model.build(num_classes=data.num_classes, in_channels=data.in_channels)
    return network


def build_objective(
    terms: Mapping[str, Term], seed: int, dataset: Dataset, student: Network, teacher: Network | None
) -> WeightedSum:
    """Build the objective of the terms with its graph parts, each initialised from its own random stream."""
    runtime: dict[str, Any] = {"labels": dataset.train_labels, "num_classes": dataset.num_classes}
    networks = {"student": student} if teacher is None else {"student": student, "teacher": teacher}
    outputs = {
        side: trial_output(network, dataset.in_channels, dataset.image_size) for side, network in networks.items()
    }
    for side, output in outputs.items():
        shapes = shapes_of(output)
        runtime |= {f"{side}_dim": shapes.embedding, f"{side}_shapes": shapes.features}
    for name, term in terms.items():
        _check_shown(f"objective.{name}", term.part, networks, outputs)
    schedules = {name: term.schedule for name, term in terms.items() if term.schedule is not None}
    built = {name: (_build_term(name, term, seed, runtime), term.weight) for name, term in terms.items()}
    return WeightedSum(built, schedules)


def try_out(name: str, term: Term) -> None:
    """Build a term on stand-ins for networks and data, to find values out of range before anything starts.

    Objectives on feature maps are left out: they depend on the networks' shapes.
    """
    if not {"student_shapes", "teacher_shapes"} & options_of(OBJECTIVES.factory(term.part.name)).keys():
        _build_term(name, term, 0, STAND_INS)


def _build_term(name: str, term: Term, seed: int, runtime: Mapping[str, Any]) -> Any:
    """Return a term's objective with its graph parts, given the arguments of `runtime` that it names."""
    wanted = options_of(OBJECTIVES.factory(term.part.name))
    with _of_bearable_size(f"objective.{name}"):
        own = {key: part.build() for key, part in term.own_parts.items()}
        given = {**runtime, **own, **_build_graph_parts(name, term, seed)}
        with initialising(seed, "objective_init", name):
            return term.part.build(**{key: value for key, value in given.items() if key in wanted})


def _check_shown(term: str, part: Part, networks: Mapping[str, Network], outputs: Mapping[str, NetworkOutput]) -> None:
    """Check that the networks output the feature maps that an objective needs."""
    kind: type[Objective] = OBJECTIVES.factory(part.name)
    for side, output in outputs.items():
        count, fewest = len(output.features), kind.maps_needed(part.bound.all)
        if count < fewest:
            others = [len(other.features) for name, other in outputs.items() if name != side]
            example = _evenly(networks[side].token_blocks, max([fewest, *others] if any(others) else [4]))
            hint = f"; name some: {side}.features=[{','.join(example)}]" if example else ""
            maps = f"{fewest} feature map{'s' if fewest > 1 else ''}"
            raise UserError(f"{term}: '{kind.name}' needs {maps} or more, but the {side}'s network shows {count}{hint}")
        if side in kind.needs_preactivations and output.preactivations is None:
            raise UserError(
                f"{term}: '{kind.name}' needs pre-activations, but the {side}'s network does not show them (one of "
                f"torchvision or timm does for maps that end in an activation module: {side}.features=[...])"
            )


def _evenly(names: Sequence[str], count: int) -> list[str]:
    """Return `count` evenly spaced names, the last one included."""
    count = min(count, len(names))
    return [names[(number + 1) * len(names) // count - 1] for number in range(count)]


def _build_graph_parts(name: str, term: Term, seed: int) -> dict[str, Any]:
    if term.builder is None:
        return {}
    if term.gnn is None:
        return {"builder": term.builder.build()}
    dims = {"in_dim": term.graph_dim, "out_dim": term.graph_dim}
    with initialising(seed, "objective_init", name, "student_gnn"):
        student_gnn = term.gnn.build(**dims)
    teacher_gnn = student_gnn
    if term.teacher_gnn != SHARED:
        like = term.teacher_gnn if isinstance(term.teacher_gnn, Part) else term.gnn
        with initialising(seed, "objective_init", name, "teacher_gnn"):
            teacher_gnn = like.build(**dims)
    return {"builder": term.builder.build(), "student_gnn": student_gnn, "teacher_gnn": teacher_gnn}


@contextlib.contextmanager
def _of_bearable_size(where: str) -> Iterator[None]:
    """Turn errors of torch and Python about sizes beyond any memory into a `UserError`."""
    try:
        yield
    except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
        if isinstance(error, (RuntimeError, TypeError)) and not re.search("overflow|allocate|memory", str(error), re.I):
            raise
        raise UserError(f"{where}: an option is too large: {one_line(error)}") from error
