"""Load the weights that a run begins with: those of its teacher, and those that a student starts from."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from graphkd.data import Dataset
from graphkd.engine.callback import Callback
from graphkd.engine.evaluate import evaluate
from graphkd.engine.guard import not_finite
from graphkd.engine.trainer import Trainer
from graphkd.engine.weights import load_weights
from graphkd.errors import UserError, check, counted
from graphkd.model import Network
from graphkd.model.head import head_tensors
from graphkd.report.record import Teacher
from graphkd.run.folder import RECORD, WEIGHTS
from graphkd.run.result import RunResult
from graphkd.run.spec import StudentSpec, TeacherSpec

BETTER_THAN_GUESSING = 1.2
"""A teacher whose accuracy is below this multiple of chance causes a warning."""


def load_teacher(
    network: Network, spec: TeacherSpec, trainer: Trainer, dataset: Dataset, callback: Callback,
    train: Callable[[], RunResult],
) -> Teacher:  # fmt: skip
    """Load a teacher's weights from its file or from its run, and return the teacher for the records.

    Args:
        network: The teacher's network.
        spec: The teacher.
        trainer: The student's trainer, on whose device weights from a file are tested.
        dataset: The student's data.
        callback: Gets notes on where the weights come from, and on a teacher that knows little.
        train: Executes the teacher's run, or reuses it.

    Raises:
        UserError: The weights do not fit, or they or the outputs are not finite. What `train` raises is raised too.
    """
    if spec.checkpoint is not None:
        teacher = _from_file(network, spec, spec.checkpoint, trainer, dataset, callback)
    else:
        teacher = _from_run(network, spec, callback, train)
    chance = 100 / dataset.num_classes
    if teacher.accuracy is not None and teacher.accuracy < BETTER_THAN_GUESSING * chance:
        callback.note(
            f"teacher: right on {teacher.accuracy:.2f} % of the test images, where guessing among "
            f"{dataset.num_classes} classes gives {chance:.2f} %: its students will learn little from it"
        )
    return teacher


def load_start(network: Network, spec: StudentSpec, path: Path, dataset: Dataset, callback: Callback) -> None:
    """Load the weights that a student starts from, with their head or without.

    Args:
        network: The student's network.
        spec: The student.
        path: The file of weights.
        dataset: The data, whose images tell which tensors are the head's.
        callback: Gets notes on how the file was read.

    Raises:
        UserError: The weights do not fit the network.
    """
    if spec.drop_head:
        notes = _load_without_head(network, path, dataset)
    else:
        notes = _load_whole(network, path, dataset, "student.drop_head=true starts with a new head")
    for note in [*notes, f"student: {spec.model.name} starts from {path}"]:
        callback.note(note)


def _from_file(
    network: Network, spec: TeacherSpec, path: Path, trainer: Trainer, dataset: Dataset, callback: Callback
) -> Teacher:
    fix = "a teacher needs the data's classes: train one by `graphkd run student=... student.checkpoint=FILE"
    for note in _load_whole(network, path, dataset, f"{fix} student.drop_head=true objective=ce`"):
        callback.note(note)
    device = trainer.fabric().device
    figures = evaluate(network.to(device), dataset, batch_size=trainer.eval_batch_size, device=device)
    check(
        math.isfinite(figures.nll),
        f"teacher.checkpoint: with the weights in {path} the network's outputs are not finite",
    )
    callback.note(f"teacher: {spec.model.name} from {path} ({figures.top1:.2f} % on test)")
    return Teacher(spec.identity, figures.top1)


def _from_run(network: Network, spec: TeacherSpec, callback: Callback, train: Callable[[], RunResult]) -> Teacher:
    if not (spec.folder / RECORD).exists():
        epochs = counted(spec.trainer.epochs, "epoch")
        callback.note(f"teacher: {spec.model.name} is not in {spec.folder} yet; training it first ({epochs})")
    result = train()
    again = "train it again: graphkd teacher with the same overrides and force=true"
    try:
        load_weights(network, result.folder / WEIGHTS["teacher"])
    except UserError as error:
        raise UserError(f"{error}; {again}") from error
    metrics = result.record.metrics
    check(
        metrics.test_nll_last is not None and not not_finite(network.state_dict()),
        f"the teacher in {spec.folder} has weights or outputs that are not finite; {again}",
    )
    if result.reused:
        callback.note(f"teacher: {spec.model.name} from {spec.folder} ({metrics.test_top1_last:.2f} % on test)")
        for module in result.changed:
            callback.note(f"teacher: plug-in {module} has changed since (graphkd teacher force=true trains it again)")
    return Teacher(spec.identity, metrics.test_top1_last)


def _load_whole(network: Network, path: Path, dataset: Dataset, without_head: str) -> tuple[str, ...]:
    """Load weights with their head; return notes on the file. An error advises `without_head` where that would fit."""
    try:
        return load_weights(network, path)
    except UserError as error:
        hint = f"; {without_head}" if _fits_without_head(network, path, dataset) else ""
        raise UserError(f"{error}{hint}") from error


def _load_without_head(network: Network, path: Path, dataset: Dataset) -> tuple[str, ...]:
    return load_weights(network, path, head_tensors(network, dataset.in_channels, dataset.image_size))


def _fits_without_head(network: Network, path: Path, dataset: Dataset) -> bool:
    try:
        _load_without_head(network, path, dataset)
    except UserError:
        return False
    return True
