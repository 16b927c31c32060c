"""Build and rehearse runs, so that what does not fit or fails at once does not wait for the training of a teacher."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
from collections.abc import Iterable

import torch

from graphkd.data import Dataset
from graphkd.engine.callback import Callback, History
from graphkd.engine.feed import Feed
from graphkd.engine.guard import NotFiniteError
from graphkd.engine.loop import Position, TrainingLoop
from graphkd.engine.together import train_together
from graphkd.errors import UserError, one_line
from graphkd.registry import place_in_plugin
from graphkd.run.folder import is_done
from graphkd.run.spec import RunSpec


class _Rehearsed(Exception):  # noqa: N818
    """A step is done."""


class _OneStep(Callback):
    def step(self) -> None:
        raise _Rehearsed


def waits_for_teacher(spec: RunSpec) -> bool:
    """Return whether a teacher is trained before this run."""
    teacher = spec.teacher
    if teacher is None or teacher.checkpoint is not None:
        return False
    return not is_done(teacher.folder, teacher.identity, teacher.seed)


def rehearse(spec: RunSpec, dataset: Dataset) -> None:
    """Take a step of every stage of a run beside its untrained teacher, on parts that are then thrown away.

    A builder, encoder or objective of the user's own may fail only when it sees a batch. One device takes the steps, on
    its share of a batch. Out-of-memory errors and non-finite losses are ignored: they may come from the run's size or
    the untrained teacher.

    Raises:
        UserError: Parts do not fit together, or the device is missing. Whatever else a part raises is raised too.
    """
    with contextlib.suppress(torch.cuda.OutOfMemoryError):  # torch.OutOfMemoryError is newer than torch 2.3
        _take_steps(spec, dataset)
    if torch.cuda.is_available():
        gc.collect()  # a loop refers to itself
        torch.cuda.empty_cache()


def _take_steps(spec: RunSpec, dataset: Dataset) -> None:
    own = spec.trainer
    size = own.batch_size // own.processes
    trainer = dataclasses.replace(
        own, batch_size=size, samples_per_class=min(own.samples_per_class, size), devices=1, nodes=1, compile=False,
        accumulate=1, clip_norm=None,
        precision=32, teacher_precision=32,  # in half precision an untrained teacher may overflow
    )  # fmt: skip
    built = spec.build(dataset)
    data = spec.training_data(dataset, built)
    fabric = trainer.fabric()
    loop = TrainingLoop(
        trainer, fabric, built.network, built.objective, data, teacher=built.teacher, seed=spec.seed,
        callback=_OneStep(),
    )  # fmt: skip
    feed = Feed(trainer, fabric, data, built.teacher, spec.seed)
    for phase in range(len(loop.stages) + 1):
        loop.position = Position(phase)
        train_together([loop], feed, _raise)


def _raise(loop: TrainingLoop, outcome: History | Exception) -> None:
    """Raise what went wrong."""
    if isinstance(outcome, Exception) and not isinstance(outcome, (_Rehearsed, NotFiniteError)):
        raise outcome


def check_parts(runs: Iterable[tuple[str, RunSpec]], rehearses: bool = True) -> None:
    """Build the data and parts of every unfinished run once, and rehearse those that wait for a teacher.

    Args:
        runs: Pairs of a name for messages and a run.
        rehearses: Whether to rehearse runs; they may be for another machine than this one.

    Raises:
        UserError: Something does not fit.
        RuntimeError: The first step of a run fails. Other errors in the data are raised too.
    """
    datasets: dict[str, Dataset] = {}
    left = {
        spec.identity: (name, spec)
        for name, spec in runs
        if spec.config["force"] or not is_done(spec.folder, spec.identity, spec.seed)
    }
    for name, spec in left.values():
        data = json.dumps(spec.data.document, sort_keys=True)
        try:
            if data not in datasets:
                datasets[data] = spec.data.build()
            spec.build(datasets[data])
            if spec.logger is not None:
                spec.logger.build()
            if rehearses and waits_for_teacher(spec):
                _rehearse(name, spec, datasets[data])
        except UserError as error:
            raise UserError(f"{name}: {error}") from error


def _rehearse(name: str, spec: RunSpec, dataset: Dataset) -> None:
    try:
        rehearse(spec, dataset)
    except UserError:
        raise
    except Exception as error:
        raise RuntimeError(f"{name}: {one_line(error)}{place_in_plugin(error)}") from error
