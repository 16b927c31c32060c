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
from graphkd.engine.callback import Callback, EpochResult, History
from graphkd.engine.checkpoint import load_weights, save_weights
from graphkd.engine.evaluate import evaluate
from graphkd.engine.guard import not_finite
from graphkd.engine.resume import Checkpoints
from graphkd.engine.trainer import Trainer
from graphkd.errors import UserError, check
from graphkd.files import folder_if_used, real_folder
from graphkd.finished import write_info
from graphkd.identity import short
from graphkd.model import Network
from graphkd.objective import OBJECTIVES, WeightedSum
from graphkd.objective.base import Setting
from graphkd.report import record as records
from graphkd.report.record import Code, Metrics, Record, Teacher, Term
from graphkd.reuse import changed_plugins, why_not_reused
from graphkd.run_folder import (
    CONFIG,
    METRICS,
    RECORD,
    WEIGHTS,
    MetricsLogger,
    check_own,
    finished,
    is_done,
    locked,
    staging_folder,
    write_config,
    write_failure,
)


@dataclass(frozen=True)
class RunResult:
    """Result of a run: its record, its folder, and whether a finished run was reused."""

    record: Record
    folder: Path
    reused: bool
    changed: tuple[str, ...] = ()
    """Plug-in modules whose source has changed since a reused run was made."""


def run(planned: Plan, callback: Callback | None = None) -> RunResult:
    """Run a plan in its folder, training the teacher first where none of that description is there.

    A finished run of the same identity and seed is not run again unless `force` is set; then the new one is written
    beside it and takes its place when it is done.

    Args:
        planned: What to run (`graphkd.assemble.plan`).
        callback: Is told how it goes.

    Raises:
        UserError: The folder holds something else, or parts of the plan do not fit together.
    """
    trainer = planned.build_trainer()
    _join(trainer)
    folder = real_folder(planned.folder)
    found = launch.broadcast_object(lambda: _reusable(folder, planned.identity, planned.seed, planned.config))
    if found is not None:
        return RunResult(found, planned.folder, reused=True, changed=changed_plugins(found, planned.plugins))
    trainer.check_machine()
    if _needs_processes(trainer):
        _teach_first(planned, trainer, callback)
        return _in_processes(planned.config, folder, planned.identity, planned.seed, trainer.devices, callback)
    callback = callback or Callback()
    # Everything is built before anything is written, so that what does not fit together leaves no trace.
    dataset = planned.build_data()
    student, teacher, objective = build_parts(planned, dataset)
    for note in (*dataset.notes, *objective.notes(_setting(trainer, dataset))):
        callback.note(note)
    _note_earlier(folder, planned, lambda config: plan(config).identity, callback)
    if planned.start is not None:
        _fill(student, planned.start, callback)
        callback.note(f"student: {planned.student.name} starts from {planned.start}")
    if planned.teacher is not None and teacher is not None and planned.teacher.checkpoint is not None:
        _fill(teacher, planned.teacher.checkpoint, callback)
    with folder_if_used(folder.parent):
        known = None
        if planned.teacher is not None and teacher is not None:
            known = _known_teacher(planned.teacher, teacher, planned.config, dataset, callback)
        record = new_record(
            planned.config, "student", planned.variant, planned.identity, planned.seed, trainer, planned.plugins
        )
        work = _BuiltRun(trainer, student, objective, dataset, teacher, callback)
        return _in_folder(folder, dataclasses.replace(record, teacher=known), planned.config, work)


def build_parts(planned: Plan, dataset: Dataset) -> tuple[Network, Network | None, WeightedSum]:
    """Build a run's untrained student and teacher and its objective, which writes nothing.

    Raises:
        UserError: They do not fit together, or an option does not fit the data.
    """
    student = planned.build_student(dataset)
    teacher = None if planned.teacher is None else planned.teacher.build(dataset)
    objective = planned.build_objective(dataset, student, teacher)
    trainer = planned.build_trainer()
    trainer.check_batches(student, dataset, objective.views)
    objective.check(_setting(trainer, dataset))
    return student, teacher, objective


def _setting(trainer: Trainer, dataset: Dataset) -> Setting:
    return Setting(dataset.train_labels, dataset.num_classes, trainer.batch_size, trainer.processes)


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


def run_teacher(config: Mapping[str, Any], teacher: TeacherPlan, callback: Callback | None = None) -> RunResult:
    """Train a teacher in its folder below the results, unless it is there already.

    Args:
        config: The resolved config it comes from.
        teacher: What to train (`graphkd.assemble.plan_teacher`).
        callback: Is told how it goes.

    Raises:
        UserError: It is to be read from a checkpoint, or parts of the plan do not fit together.
    """
    check(teacher.checkpoint is None, "teacher.checkpoint is given, so there is no teacher to train")
    folder = real_folder(Path(config["results"]) / teacher.folder)
    trainer = Trainer(**teacher.trainer.all)
    _join(trainer)
    found = launch.broadcast_object(lambda: _reusable(folder, teacher.identity, teacher.seed, config))
    if found is not None:
        return RunResult(found, folder, reused=True, changed=changed_plugins(found, teacher.plugins))
    _check_count(trainer, "teacher_trainer")
    trainer.check_machine()
    if _needs_processes(trainer):
        return _in_processes(config, folder, teacher.identity, teacher.seed, trainer.devices, callback, "--teacher")
    callback = callback or Callback()
    dataset = teacher.data.build()
    network = teacher.build(dataset)
    trainer.check_batches(network, dataset, where="teacher_trainer")
    _note_earlier(folder, teacher, lambda config: plan_teacher(config).identity, callback)
    record = new_record(config, "teacher", teacher.model.name, teacher.identity, teacher.seed, trainer, teacher.plugins)
    objective = WeightedSum({"ce": (OBJECTIVES.build("ce"), 1.0)})
    return _in_folder(folder, record, config, _BuiltRun(trainer, network, objective, dataset, None, callback))


def _teach_first(planned: Plan, trainer: Trainer, callback: Callback | None) -> None:
    """Train a missing teacher that wants another number of processes than its student, which are not begun yet."""
    teacher = planned.teacher
    if teacher is None or teacher.checkpoint is not None:
        return
    if Trainer(**teacher.trainer.all).processes != trainer.processes:
        build_parts(planned, planned.build_data())  # what does not fit together is refused before
        run_teacher({**planned.config, "force": False}, teacher, callback)


def _note_earlier(
    folder: Path, planned: Plan | TeacherPlan, identify: Callable[[Mapping[str, Any]], str], callback: Callback
) -> None:
    """Tell why a run of the same config is not used again, if there is one where the new one is kept."""
    if folder.parent.name == short(planned.identity):
        note = why_not_reused(folder, planned.identity, planned.seed, identify)
        if note is not None:
            callback.note(note)


def _fill(network: Network, path: Path, callback: Callback) -> None:
    """Load weights and pass on what there is to say of their file."""
    for note in load_weights(network, path):
        callback.note(note)


def _known_teacher(
    planned: TeacherPlan, network: Network, config: Mapping[str, Any], dataset: Dataset, callback: Callback
) -> Teacher:
    """Return the teacher for the record; fill its network unless it is from a file, and train it first if need be."""
    if planned.checkpoint is not None:
        figures = evaluate(network, dataset, "test")
        check(
            math.isfinite(figures.nll),
            f"teacher.checkpoint: with the weights in {planned.checkpoint} the network's outputs are not finite",
        )
        callback.note(f"teacher: {planned.model.name} from {planned.checkpoint} ({figures.top1:.2f} % on test)")
        return Teacher(planned.identity, figures.top1)
    folder = Path(config["results"]) / planned.folder
    if not (folder / RECORD).exists():
        epochs = planned.trainer.all["epochs"]
        callback.note(f"teacher: {planned.model.name} is not in {folder} yet, training it first ({epochs} epochs)")
    result = run_teacher({**config, "force": False}, planned, callback)
    load_weights(network, folder / WEIGHTS["teacher"])
    metrics = result.record.metrics
    check(
        metrics.test_nll_last is not None and not not_finite(network.state_dict()),
        f"the teacher in {folder} has weights or outputs that are not finite; train it again: graphkd teacher with "
        "the same overrides and force=true",
    )
    accuracy_of = metrics.test_top1_last
    if result.reused:
        callback.note(f"teacher: {planned.model.name} from {folder} ({accuracy_of:.2f} % on test)")
        for module in result.changed:
            callback.note(f"teacher: plug-in {module} has changed since (graphkd teacher force=true trains it again)")
    return Teacher(planned.identity, accuracy_of)


@dataclass(frozen=True)
class _BuiltRun:
    """Everything that a run trains with, built."""

    trainer: Trainer
    network: Network
    objective: WeightedSum
    dataset: Dataset
    teacher: Network | None
    callback: Callback


def _in_folder(folder: Path, record: Record, config: Mapping[str, Any], work: _BuiltRun) -> RunResult:
    """Do the work in its folder, unless somebody else has done it in the meantime."""
    with locked(folder, work.callback):
        found = launch.broadcast_object(lambda: _reusable(folder, record.identity, record.seed, config))
        if found is not None:
            return RunResult(found, folder, reused=True)
        there = launch.broadcast_object(lambda: finished(folder, record.identity, record.seed)) is not None
        with staging_folder(folder, keep=there) as place:
            return RunResult(_train(place, record, config, work), folder, reused=False)


def _reusable(folder: Path, identity: str, seed: int, config: Mapping[str, Any]) -> Record | None:
    """Return the record of a finished run of this description, unless it is to run again; else check the folder."""
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
    """Return whether processes for the trainer's devices are still to be started.

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
    config: Mapping[str, Any], folder: Path, identity: str, seed: int, processes: int, callback: Callback | None,
    *options: str,
) -> RunResult:  # fmt: skip
    """Have a process for each device do it; the leading one shows how it goes, where there is a callback at all."""
    with tempfile.TemporaryDirectory(prefix="graphkd-") as place:
        resolved = Path(place) / CONFIG
        write_config(config, resolved)
        launch.start(resolved, processes, [*options, *([] if callback else ["--quiet"])])
    record = finished(folder, identity, seed)
    assert record is not None, "the processes ended well"
    return RunResult(record, folder, reused=False)


def _train(folder: Path, record: Record, config: Mapping[str, Any], work: _BuiltRun) -> Record:
    """Train a network; the leading process leaves config, metrics, weights and record in the folder."""
    leads = launch.is_main_process()
    if leads:
        records.write(record, folder / RECORD)  # first, for it makes the folder a run's
        write_config(absolute_paths(config), folder / CONFIG)
        write_info(work.dataset.info, folder)
    checkpoints = Checkpoints(folder, work.trainer.checkpoint_every)
    try:
        history = work.trainer.fit(
            work.network, work.objective, work.dataset, teacher=work.teacher, seed=record.seed,
            callback=MetricsLogger(folder / METRICS, work.callback) if leads else Callback(),
            name=f"{record.kind} {record.variant} seed {record.seed}", checkpoints=checkpoints,
        )  # fmt: skip
    except Exception as error:
        if leads:
            write_failure(record, error, folder)
        raise
    done = dataclasses.replace(
        record, status="done", duration_s=history.elapsed, seconds_per_step=history.seconds_per_step,
        peak_memory_mib=history.peak_memory_mib, metrics=metrics_of(history),
        phases={name: seconds / history.steps for name, seconds in history.phases.items()},
    )  # fmt: skip
    if leads:
        save_weights(work.network, folder / WEIGHTS[record.kind])
        records.write(done, folder / RECORD)
        checkpoints.remove()
    launch.wait()
    return done


def metrics_of(history: History) -> Metrics:
    """Return what a training reached, as a record holds it."""
    last = history.epochs[-1]
    assert last.test is not None, "the last epoch is always evaluated"
    evaluated = [epoch for epoch in history.epochs if epoch.test is not None]
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


def _val_top1(epoch: EpochResult) -> float:
    return -1.0 if epoch.val is None else epoch.val.top1


def _test_top1(epoch: EpochResult) -> float:
    return -1.0 if epoch.test is None else epoch.test.top1


def new_record(
    config: Mapping[str, Any], kind: Literal["student", "teacher"], variant: str, identity: str, seed: int,
    trainer: Trainer, plugins: Mapping[str, str],
) -> Record:  # fmt: skip
    """Return the record that a run begins with."""
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
