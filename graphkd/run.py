"""One run in its folder: the teacher first, then the student, then the record of it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from graphkd import launch
from graphkd.assemble import Plan, TeacherPlan, absolute_paths, plan, plan_teacher
from graphkd.data import Dataset
from graphkd.engine.checkpoint import load_weights, save_weights
from graphkd.engine.evaluate import evaluate
from graphkd.engine.guard import not_finite
from graphkd.engine.resume import Checkpoints
from graphkd.engine.trainer import Trainer
from graphkd.engine.watching import Epoch, Fit, Watcher
from graphkd.errors import UserError, check
from graphkd.finished import write_info
from graphkd.identity import short
from graphkd.model import Network
from graphkd.objective import OBJECTIVES, WeightedSum
from graphkd.objective.base import Setting
from graphkd.report import record as records
from graphkd.report.files import folder_if_used, real_folder
from graphkd.report.record import Code, Metrics, Record, Teacher, Term
from graphkd.reuse import changed_plugins, why_not_reused
from graphkd.run_folder import (
    CONFIG,
    METRICS,
    RECORD,
    WEIGHTS,
    Journal,
    check_own,
    finished,
    is_done,
    locked,
    workplace,
    write_config,
    write_failure,
)


@dataclass(frozen=True)
class Outcome:
    """What came of asking for a run: its record, its folder, and whether it had been there before."""

    record: Record
    folder: Path
    reused: bool
    changed: tuple[str, ...] = ()
    """Modules from outside graphkd whose source has changed since a run was made that is used again."""


def run(planned: Plan, watcher: Watcher | None = None) -> Outcome:
    """Runs a plan in its folder, training the teacher first where none of that description is there.

    A finished run of the same identity and seed is not run again unless `force` is set; then the new one is written
    beside it and takes its place when it is done.

    Args:
        planned: What to run (`graphkd.assemble.plan`).
        watcher: Is told how it goes.

    Raises:
        UserError: The folder holds something else, or parts of the plan do not fit together.
    """
    trainer = planned.build_trainer()
    _join(trainer)
    folder = real_folder(planned.folder)
    found = launch.agreed(lambda: _reusable(folder, planned.identity, planned.seed, planned.config))
    if found is not None:
        return Outcome(found, planned.folder, reused=True, changed=changed_plugins(found, planned.plugins))
    trainer.check_machine()
    if _needs_processes(trainer):
        _teach_first(planned, trainer, watcher)
        return _in_processes(planned.config, folder, planned.identity, planned.seed, trainer.devices, watcher)
    watcher = watcher or Watcher()
    # Everything is built before anything is written, so that what does not fit together leaves no trace.
    dataset = planned.build_data()
    student, teacher, objective = build_parts(planned, dataset)
    setting = Setting(dataset.train_labels, dataset.num_classes, trainer.batch_size, trainer.processes)
    for note in (*dataset.notes, *objective.notes(setting)):
        watcher.note(note)
    _note_earlier(folder, planned, lambda config: plan(config).identity, watcher)
    if planned.start is not None:
        _fill(student, planned.start, watcher)
        watcher.note(f"student: {planned.student.name} starts from {planned.start}")
    if planned.teacher is not None and teacher is not None and planned.teacher.checkpoint is not None:
        _fill(teacher, planned.teacher.checkpoint, watcher)
    with folder_if_used(folder.parent):
        known = None
        if planned.teacher is not None and teacher is not None:
            known = _known_teacher(planned.teacher, teacher, planned.config, dataset, watcher)
        record = new_record(
            planned.config, "student", planned.variant, planned.identity, planned.seed, trainer, planned.plugins
        )
        work = _Work(trainer, student, objective, dataset, teacher, watcher)
        return _in_folder(folder, dataclasses.replace(record, teacher=known), planned.config, work)


def build_parts(planned: Plan, dataset: Dataset) -> tuple[Network, Network | None, WeightedSum]:
    """Build a run's untrained student and teacher and its objective, which writes nothing.

    Raises:
        UserError: They do not fit together, or an option does not fit the data.
    """
    student = planned.build_student(dataset)
    teacher = None if planned.teacher is None else planned.teacher.build(dataset)
    objective = planned.build_objective(dataset, student, teacher)
    planned.build_trainer().check_batches(student, dataset, objective.views)
    return student, teacher, objective


def check_parts(runs: Iterable[tuple[str, Plan]]) -> None:
    """Build the data and parts of every run that is still to be done once, before a teacher is trained for any.

    Args:
        runs: What messages call each run, and its plan.

    Raises:
        UserError: Something does not fit; whatever else goes wrong with the data ends all runs too.
    """
    datasets: dict[str, Dataset] = {}
    left = {
        planned.identity: (name, planned)
        for name, planned in runs
        if planned.config["force"] or not is_done(planned.folder, planned.identity, planned.seed)
    }
    for name, planned in left.values():
        data = json.dumps(planned.data.document, sort_keys=True)
        try:
            if data not in datasets:
                datasets[data] = planned.build_data()
            build_parts(planned, datasets[data])
        except UserError as error:
            raise UserError(f"{name}: {error}") from error


def run_teacher(config: Mapping[str, Any], teacher: TeacherPlan, watcher: Watcher | None = None) -> Outcome:
    """Trains a teacher in its folder below the results, unless it is there already.

    Args:
        config: The resolved config it comes from.
        teacher: What to train (`graphkd.assemble.plan_teacher`).
        watcher: Is told how it goes.

    Raises:
        UserError: It is to be read from a checkpoint, or parts of the plan do not fit together.
    """
    check(teacher.checkpoint is None, "teacher.checkpoint is given, so there is no teacher to train")
    folder = real_folder(Path(config["results"]) / teacher.folder)
    trainer = Trainer(**teacher.trainer.all)
    _join(trainer)
    found = launch.agreed(lambda: _reusable(folder, teacher.identity, teacher.seed, config))
    if found is not None:
        return Outcome(found, folder, reused=True, changed=changed_plugins(found, teacher.plugins))
    _check_count(trainer, "teacher_trainer")
    trainer.check_machine()
    if _needs_processes(trainer):
        return _in_processes(config, folder, teacher.identity, teacher.seed, trainer.devices, watcher, "--teacher")
    watcher = watcher or Watcher()
    dataset = teacher.data.build()
    network = teacher.build(dataset)
    trainer.check_batches(network, dataset, where="teacher_trainer")
    _note_earlier(folder, teacher, lambda config: plan_teacher(config).identity, watcher)
    record = new_record(
        config, "teacher", teacher.model.name, teacher.identity, teacher.seed, trainer, teacher.plugins
    )
    objective = WeightedSum({"ce": (OBJECTIVES.build("ce"), 1.0)})
    return _in_folder(folder, record, config, _Work(trainer, network, objective, dataset, None, watcher))


def _teach_first(planned: Plan, trainer: Trainer, watcher: Watcher | None) -> None:
    """Trains a missing teacher that wants another number of processes than its student, which are not begun yet."""
    teacher = planned.teacher
    if teacher is None or teacher.checkpoint is not None:
        return
    if Trainer(**teacher.trainer.all).processes != trainer.processes:
        build_parts(planned, planned.build_data())  # what does not fit together is refused before
        run_teacher({**planned.config, "force": False}, teacher, watcher)


def _note_earlier(
    folder: Path, planned: Plan | TeacherPlan, identify: Callable[[Mapping[str, Any]], str], watcher: Watcher
) -> None:
    """Tells why a run of the same config is not used again, if there is one where the new one is kept."""
    if folder.parent.name == short(planned.identity):
        note = why_not_reused(folder, planned.identity, planned.seed, identify)
        if note is not None:
            watcher.note(note)


def _fill(network: Network, path: Path, watcher: Watcher) -> None:
    """Loads weights and passes on what there is to say of their file."""
    for note in load_weights(network, path):
        watcher.note(note)


def _known_teacher(
    planned: TeacherPlan, network: Network, config: Mapping[str, Any], dataset: Dataset, watcher: Watcher
) -> Teacher:
    """The teacher as the record names it; unless it is from a file, its network is filled, or trained if need be."""
    if planned.checkpoint is not None:
        figures = evaluate(network, dataset, "test")
        check(
            math.isfinite(figures.nll),
            f"teacher.checkpoint: with the weights in {planned.checkpoint} the network's outputs are not finite",
        )
        watcher.note(f"teacher: {planned.model.name} from {planned.checkpoint} ({figures.top1:.2f} % on test)")
        return Teacher(planned.identity, figures.top1)
    folder = Path(config["results"]) / planned.folder
    if not (folder / RECORD).exists():
        epochs = planned.trainer.all["epochs"]
        watcher.note(f"teacher: {planned.model.name} is not in {folder} yet, training it first ({epochs} epochs)")
    outcome = run_teacher({**config, "force": False}, planned, watcher)
    load_weights(network, folder / WEIGHTS["teacher"])
    metrics = outcome.record.metrics
    check(
        metrics.test_nll_last is not None and not not_finite(network.state_dict()),
        f"the teacher in {folder} has weights or outputs that are not finite; train it again: graphkd teacher with "
        "the same overrides and force=true",
    )
    accuracy_of = metrics.test_top1_last
    if outcome.reused:
        watcher.note(f"teacher: {planned.model.name} from {folder} ({accuracy_of:.2f} % on test)")
        for module in outcome.changed:
            watcher.note(f"teacher: plug-in {module} has changed since (graphkd teacher force=true trains it again)")
    return Teacher(planned.identity, accuracy_of)


@dataclass(frozen=True)
class _Work:
    """A training, built and ready."""

    trainer: Trainer
    network: Network
    objective: WeightedSum
    dataset: Dataset
    teacher: Network | None
    watcher: Watcher


def _in_folder(folder: Path, record: Record, config: Mapping[str, Any], work: _Work) -> Outcome:
    """Does the work in its folder, unless somebody else has done it in the meantime."""
    with locked(folder, work.watcher):
        found = launch.agreed(lambda: _reusable(folder, record.identity, record.seed, config))
        if found is not None:
            return Outcome(found, folder, reused=True)
        there = launch.agreed(lambda: finished(folder, record.identity, record.seed)) is not None
        with workplace(folder, keep=there) as place:
            return Outcome(_train(place, record, config, work), folder, reused=False)


def _reusable(folder: Path, identity: str, seed: int, config: Mapping[str, Any]) -> Record | None:
    """What a finished run of this description came to, unless it is to be run again; else the folder may be had."""
    found = finished(folder, identity, seed)
    if found is not None and not config["force"]:
        return found
    check_own(folder)
    return None


def _join(trainer: Trainer) -> None:
    """Meets the other processes, where this is one of several that were started together.

    Raises:
        UserError: They are more or fewer than the trainer's devices.
    """
    if launch.in_group() and not launch.joined():
        _check_count(trainer)
        trainer.fabric().launch()


def _check_count(trainer: Trainer, node: str = "trainer") -> None:
    count = launch.processes()
    check(
        count in (1, trainer.processes),
        f"{node}: devices x nodes is {trainer.processes}, but {count} processes were started together",
    )


def _needs_processes(trainer: Trainer) -> bool:
    """Whether processes for the trainer's devices are still to be started.

    Raises:
        UserError: They are on several machines.
    """
    needed = trainer.processes > 1 and not launch.in_group()
    check(
        not needed or trainer.nodes == 1,
        f"trainer: nodes is {trainer.nodes}, which torchrun or srun must start: -m {launch.WORKER} CONFIG",
    )
    return needed


def _in_processes(
    config: Mapping[str, Any], folder: Path, identity: str, seed: int, processes: int, watcher: Watcher | None,
    *options: str,
) -> Outcome:  # fmt: skip
    """Has a process for each device do it; the leading one shows how it goes, where there is a watcher at all."""
    with tempfile.TemporaryDirectory(prefix="graphkd-") as place:
        resolved = Path(place) / CONFIG
        write_config(config, resolved)
        launch.start(resolved, processes, [*options, *([] if watcher else ["--quiet"])])
    record = finished(folder, identity, seed)
    assert record is not None, "the processes ended well"
    return Outcome(record, folder, reused=False)


def _train(folder: Path, record: Record, config: Mapping[str, Any], work: _Work) -> Record:
    """Trains a network; the leading process leaves config, metrics, weights and record in the folder."""
    leads = launch.leads()
    if leads:
        records.write(record, folder / RECORD)  # first, for it makes the folder a run's
        write_config(absolute_paths(config), folder / CONFIG)
        write_info(work.dataset.info, folder)
    checkpoints = Checkpoints(folder, work.trainer.checkpoint_every)
    try:
        fit = work.trainer.fit(
            work.network, work.objective, work.dataset, teacher=work.teacher, seed=record.seed,
            watcher=Journal(folder / METRICS, work.watcher) if leads else Watcher(),
            name=f"{record.kind} {record.variant} seed {record.seed}", checkpoints=checkpoints,
        )  # fmt: skip
    except Exception as error:
        if leads:
            write_failure(record, error, folder)
        raise
    done = dataclasses.replace(
        record, status="done", duration_s=fit.elapsed, seconds_per_step=fit.seconds_per_step,
        peak_memory_mib=fit.peak_memory_mib, metrics=metrics_of(fit),
        phases={name: seconds / fit.steps for name, seconds in fit.phases.items()},
    )  # fmt: skip
    if leads:
        save_weights(work.network, folder / WEIGHTS[record.kind])
        records.write(done, folder / RECORD)
        checkpoints.remove()
    launch.wait()
    return done


def metrics_of(fit: Fit) -> Metrics:
    """What a training reached, as a record holds it."""
    last = fit.epochs[-1]
    assert last.test is not None, "the last epoch is always evaluated"
    evaluated = [epoch for epoch in fit.epochs if epoch.test is not None]
    best = max((epoch for epoch in evaluated if epoch.val is not None), key=_val_top1, default=None)
    return Metrics(
        test_top1_last=last.test.top1,
        test_top1_at_best_val=None if best is None else _test_top1(best),
        val_top1_best=None if best is None else _val_top1(best),
        test_top1_max=max(_test_top1(epoch) for epoch in evaluated),
        test_top5_last=last.test.top5,
        test_nll_last=last.test.nll,
        agreement_last=last.test.agreement,
        terms={name: Term(term["raw"], term["weighted"]) for name, term in last.terms.items()},
    )


def _val_top1(epoch: Epoch) -> float:
    return -1.0 if epoch.val is None else epoch.val.top1


def _test_top1(epoch: Epoch) -> float:
    return -1.0 if epoch.test is None else epoch.test.top1


def new_record(
    config: Mapping[str, Any], kind: Literal["student", "teacher"], variant: str, identity: str, seed: int,
    trainer: Trainer, plugins: Mapping[str, str],
) -> Record:  # fmt: skip
    """The record that a run begins with."""
    return Record(
        kind=kind, status="running", study=str(config["study"]), variant=variant, pair=pair_name(config),
        varied=dict(config.get("varied") or {}), identity=identity, seed=seed, teacher=None,
        versions=_versions(), code=_code(plugins), device=_device(trainer), threads=trainer.threads,
        data=_name(config["data"]),
    )  # fmt: skip


def pair_name(config: Mapping[str, Any]) -> str:
    """Teacher and student in one name, whether or not the objective uses the teacher."""
    return f"{_name(config['teacher'])}->{_name(config['student'])}"


def _name(node: Any) -> str:
    return node if isinstance(node, str) else str(node["name"])


def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "dgl", "lightning-fabric", "numpy")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _code(plugins: Mapping[str, str]) -> Code:
    code = Code(importlib.metadata.version("graphkd"), plugins=dict(plugins))
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return code
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return code
    return dataclasses.replace(code, git=commit, dirty=dirty)


def _git(root: Path, *arguments: str) -> str:
    # Without optional locks: a run that is killed meanwhile must not leave one behind.
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _device(trainer: Trainer) -> str:
    device = trainer.fabric().device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
