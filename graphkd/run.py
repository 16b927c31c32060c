"""One run in its folder: the teacher first, then the student, then the record of it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from filelock import FileLock

from graphkd.assemble import Plan, TeacherPlan, build_student, plan_teacher
from graphkd.data import Dataset
from graphkd.engine.checkpoint import load_weights, save_weights
from graphkd.engine.evaluate import evaluate
from graphkd.engine.resume import Checkpoints
from graphkd.engine.trainer import Trainer
from graphkd.engine.watching import Epoch, Fit, Watcher
from graphkd.errors import UserError, check, one_line
from graphkd.identity import short
from graphkd.model import Network
from graphkd.objective import OBJECTIVES, WeightedSum
from graphkd.report import record as records
from graphkd.report.files import make_folder, write_atomically
from graphkd.report.record import Code, Metrics, Record, Teacher, Term

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
RECORD = "record.json"
WEIGHTS: dict[str, str] = {"student": "student.safetensors", "teacher": "teacher.safetensors"}


@dataclass(frozen=True)
class Outcome:
    """What came of asking for a run: its record, its folder, and whether it had been there before."""

    record: Record
    folder: Path
    reused: bool


@dataclass(frozen=True)
class FinishedRun:
    """A run brought back from its folder.

    Attributes:
        record: What it came to.
        config: The resolved config that it ran.
        student: The trained student in eval mode (the teacher, for a teacher's folder), on the CPU.
        dataset: The data it ran on.
    """

    record: Record
    config: dict[str, Any]
    student: Network
    dataset: Dataset


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
    watcher = watcher or Watcher()
    _mend(planned.folder)
    found = _finished(planned.folder, planned.identity, planned.seed)
    if found is not None and not planned.config["force"]:
        return Outcome(found, planned.folder, reused=True)
    _check_own(planned.folder)
    # Everything is built before anything is written, so that what does not fit together leaves no trace.
    dataset = planned.build_data()
    student = planned.build_student(dataset)
    teacher = None if planned.teacher is None else planned.teacher.build(dataset)
    objective = planned.build_objective(dataset, student, teacher)
    trainer = planned.build_trainer()
    trainer.fabric()
    make_folder(planned.folder.parent)
    known = None
    if planned.teacher is not None and teacher is not None:
        known = _load_teacher(planned.teacher, teacher, planned.config, dataset, watcher)
    with _locked(planned.folder):
        found = _finished(planned.folder, planned.identity, planned.seed)
        if found is not None and not planned.config["force"]:
            return Outcome(found, planned.folder, reused=True)
        _check_own(planned.folder)
        record = _new_record(planned.config, "student", planned.variant, planned.identity, planned.seed, trainer)
        record = dataclasses.replace(record, teacher=known)
        with _workplace(planned.folder, keep=found is not None) as folder:
            record = _train(folder, record, planned.config, trainer, student, objective, dataset, teacher, watcher)
    return Outcome(record, planned.folder, reused=False)


def run_teacher(config: Mapping[str, Any], teacher: TeacherPlan, watcher: Watcher | None = None) -> Outcome:
    """Trains a teacher in its folder below the results, unless it is there already.

    Args:
        config: The resolved config it comes from.
        teacher: What to train (`graphkd.assemble.plan_teacher`).
        watcher: Is told how it goes.

    Raises:
        UserError: It is to be read from a checkpoint, or parts of the plan do not fit together.
    """
    watcher = watcher or Watcher()
    check(teacher.checkpoint is None, "teacher.checkpoint is given, so there is no teacher to train")
    folder = Path(config["results"]) / teacher.folder
    found = _finished(folder, teacher.identity, teacher.seed)
    if found is not None and not config["force"]:
        return Outcome(found, folder, reused=True)
    dataset = teacher.data.build()
    network = teacher.build(dataset)
    trainer = Trainer(**teacher.trainer.all)
    trainer.fabric()
    with _locked(folder):
        found = _finished(folder, teacher.identity, teacher.seed)
        if found is not None and not config["force"]:
            return Outcome(found, folder, reused=True)
        _check_own(folder)
        record = _new_record(config, "teacher", teacher.model.name, teacher.identity, teacher.seed, trainer)
        objective = WeightedSum({"ce": (OBJECTIVES.build("ce"), 1.0)})
        with _workplace(folder, keep=found is not None) as work:
            record = _train(work, record, config, trainer, network, objective, dataset, None, watcher)
    return Outcome(record, folder, reused=False)


def load(run_dir: str | Path) -> FinishedRun:
    """Brings a finished run back: its record, config, data and trained network.

    Raises:
        UserError: The folder holds no finished run, or one that this version cannot read.
    """
    folder = Path(run_dir)
    check((folder / RECORD).is_file(), f"{folder} holds no run (it has no {RECORD})")
    record = records.read(folder / RECORD)
    check(record.status == "done", f"the run in {folder} is not finished: it is {record.status}")
    config = read_config(folder / CONFIG)
    if record.kind == "teacher":
        teacher = plan_teacher(config)
        dataset = teacher.data.build()
        network = teacher.build(dataset)
    else:
        network, dataset = build_student(config)
    load_weights(network, folder / WEIGHTS[record.kind])
    return FinishedRun(record, config, network.eval(), dataset)


def write_config(config: Mapping[str, Any], path: Path) -> None:
    """Writes a resolved config as YAML, whole or not at all."""
    write_atomically(path, yaml.safe_dump(_plain(config), sort_keys=False))


def read_config(path: Path) -> dict[str, Any]:
    """Reads a resolved config.

    Raises:
        UserError: There is no such file, or it is no YAML mapping.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as a run's config: {one_line(error)}") from error
    check(isinstance(config, dict), f"{path} is no run's config: it holds no mapping")
    return dict(config)


def _load_teacher(
    planned: TeacherPlan, network: Network, config: Mapping[str, Any], dataset: Dataset, watcher: Watcher
) -> Teacher:
    """Fills the teacher's network, after training it where that is still to be done."""
    if planned.checkpoint is not None:
        load_weights(network, planned.checkpoint)
        accuracy = evaluate(network, dataset, "test").top1
        watcher.note(f"teacher: {planned.model.name} from {planned.checkpoint} ({accuracy:.2f} % on test)")
        return Teacher(planned.identity, accuracy)
    folder = Path(config["results"]) / planned.folder
    if not (folder / RECORD).exists():
        watcher.note(f"teacher: {planned.model.name} is not in {folder} yet, training it first")
    outcome = run_teacher({**config, "force": False}, planned, watcher)
    load_weights(network, folder / WEIGHTS["teacher"])
    accuracy_of = outcome.record.metrics.test_top1_last
    if outcome.reused:
        watcher.note(f"teacher: {planned.model.name} from {folder} ({accuracy_of:.2f} % on test)")
    return Teacher(planned.identity, accuracy_of)


def _train(
    folder: Path, record: Record, config: Mapping[str, Any], trainer: Trainer, network: Network,
    objective: WeightedSum, dataset: Dataset, teacher: Network | None, watcher: Watcher,
) -> Record:  # fmt: skip
    """Trains a network and leaves config, metrics, weights and record in the folder."""
    records.write(record, folder / RECORD)  # first, for it makes the folder a run's
    write_config(config, folder / CONFIG)
    title = f"{record.kind} {record.variant} seed {record.seed}"
    checkpoints = Checkpoints(folder, trainer.checkpoint_every)
    try:
        fit = trainer.fit(
            network, objective, dataset, teacher=teacher, seed=record.seed,
            watcher=_Journal(folder / METRICS, watcher), name=title, checkpoints=checkpoints,
        )  # fmt: skip
        save_weights(network, folder / WEIGHTS[record.kind])
    except Exception as error:
        records.write(dataclasses.replace(record, status="failed", error=one_line(error)), folder / RECORD)
        raise
    done = dataclasses.replace(
        record, status="done", duration_s=fit.elapsed, seconds_per_step=fit.seconds_per_step,
        peak_memory_mib=fit.peak_memory_mib, metrics=_metrics(fit),
    )  # fmt: skip
    records.write(done, folder / RECORD)
    checkpoints.remove()
    return done


class _Journal(Watcher):
    """Writes a line an epoch and passes everything on."""

    def __init__(self, path: Path, watcher: Watcher) -> None:
        self._path = path
        self._watcher = watcher
        self._lines: list[str] = []
        self._epochs = 0

    def note(self, message: str) -> None:
        self._watcher.note(message)

    def start(self, name: str, epochs: int, steps: int, done: int = 0) -> None:
        self._epochs = epochs
        self._watcher.start(name, epochs, steps, done)

    def resume(self, fit: Fit) -> None:
        self._lines = [_line(epoch) for epoch in (*fit.stages, *fit.epochs)]
        self._watcher.resume(fit)

    def step(self) -> None:
        self._watcher.step()

    def epoch(self, epoch: Epoch) -> None:
        self._lines.append(_line(epoch))
        # Waiting for the disk in every epoch would take longer than a short epoch; the last one waits.
        write_atomically(self._path, "".join(self._lines), durable=epoch.epoch == self._epochs)
        self._watcher.epoch(epoch)


def _line(epoch: Epoch) -> str:
    return json.dumps(dataclasses.asdict(epoch)) + "\n"


def _metrics(fit: Fit) -> Metrics:
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


def _new_record(
    config: Mapping[str, Any], kind: Literal["student", "teacher"], variant: str, identity: str, seed: int,
    trainer: Trainer,
) -> Record:  # fmt: skip
    return Record(
        kind=kind, status="running", study=str(config["study"]), variant=variant, pair=pair_name(config),
        varied=dict(config.get("varied") or {}), identity=identity, seed=seed, teacher=None,
        versions=_versions(), code=_code(), device=_device(trainer), threads=trainer.threads,
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


def _code() -> Code:
    version = importlib.metadata.version("graphkd")
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return Code(version)
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return Code(version)
    return Code(version, commit, dirty)


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _device(trainer: Trainer) -> str:
    device = trainer.fabric().device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _finished(folder: Path, identity: str, seed: int) -> Record | None:
    """The record of this run if the folder holds it finished.

    Raises:
        UserError: The folder holds another run.
    """
    check(folder.is_dir() or not folder.exists(), f"{folder} is a file, but the run needs a folder there")
    if not (folder / RECORD).exists():
        return None
    record = records.read(folder / RECORD)
    same = record.identity == identity and record.seed == seed
    check(
        same,
        f"{folder} holds another run ({record.variant}, identity {short(record.identity)}, seed {record.seed});"
        " choose another run_dir",
    )
    return record if record.status == "done" else None


def _check_own(folder: Path) -> None:
    """Refuses to write into a folder that holds other things than a run.

    Raises:
        UserError: It does.
    """
    if folder.is_dir() and not (folder / RECORD).exists():
        # The record is the first file of a run; one that is just being written, or was when its run died, is ours.
        foreign = any(not path.name.startswith(f".{RECORD}.") for path in folder.iterdir())
        own = not foreign or (folder / RECORD).exists()
        check(own, f"{folder} is not empty and holds no run; choose another run_dir")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one process at a time works on a folder; the lock of one that died is free."""
    make_folder(folder.parent)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        _mend(folder)
        yield


@contextmanager
def _workplace(folder: Path, keep: bool) -> Iterator[Path]:
    """The folder to write a run in: itself, or one beside it that takes its place once all is done.

    What an unfinished run left there stays, so that it can go on.
    """
    work = folder.with_name(f".{folder.name}.rerun") if keep else folder
    work.mkdir(parents=True, exist_ok=True)
    yield work
    if keep:
        _replace(folder, work)


def _replace(folder: Path, work: Path) -> None:
    """Puts `work` in the folder's place; what a crash between the two renames leaves, `_mend` brings back."""
    old = _old(folder)
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    work.rename(folder)
    shutil.rmtree(old)


def _mend(folder: Path) -> None:
    """Brings back a finished run whose replacement was cut off half-way."""
    if not folder.exists() and _old(folder).exists():
        _old(folder).rename(folder)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
