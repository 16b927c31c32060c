"""Make the record of a run: at its start, and with its metrics at its end."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import subprocess
from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch

from graphkd.data.views import STRONG
from graphkd.engine.callback import EpochResult, History
from graphkd.engine.trainer import Trainer
from graphkd.identity import identity
from graphkd.report.load import RECORD_FILE
from graphkd.report.protocol import Protocol
from graphkd.report.record import Code, Metrics, Record, Term
from graphkd.run.checkout import checkout, git, uncommitted
from graphkd.run.spec import RunSpec, TeacherSpec


def new_record(spec: RunSpec, views: Collection[str], group_size: int = 1) -> Record:
    """Return the record of a run that starts.

    Args:
        spec: The run.
        views: Names of the views of each sample in a batch.
        group_size: Number of runs that train together, this one included.
    """
    config = spec.config
    return Record(
        kind="teacher" if spec.kind == "teacher" else "student", status="running", study=str(config["study"]),
        variant=spec.variant, pair=pair_name(config), varied=dict(config.get("varied") or {}), identity=spec.identity,
        seed=spec.seed, teacher=None, versions=_versions(), code=_code(spec.plugins), device=_device(spec.trainer),
        threads=spec.trainer.threads, data=_name(config["data"]), group_size=group_size,
        protocol=protocol_of(spec, views), content=identity(content) if (content := spec.data.content) else None,
    )  # fmt: skip


def protocol_of(spec: RunSpec, views: Collection[str]) -> Protocol | None:
    """Return the protocol of a training; None for a probe, which trains no network.

    The epoch is that of `test_top1_last`, which tables compare; a record's other accuracies are named by theirs.
    """
    if spec.kind == "probe":
        return None
    return Protocol(
        epochs=spec.trainer.epochs, batch_size=spec.trainer.batch_size, views=len(views),
        augmentation=_augmentation(spec, views), teacher=_teacher_source(spec.teacher), reported="last",
        samples_per_class=spec.trainer.samples_per_class,
    )  # fmt: skip


def _augmentation(spec: RunSpec, views: Collection[str]) -> str:
    """Return what training images go through, from the options of their data set and the views."""
    options = spec.data.bound.all
    operations, magnitude = options.get("rand_augment"), options.get("rand_magnitude")
    steps = {
        "crop": options.get("padding", 0) != 0,  # null: crops of the data set's own kind
        "flip": options.get("flip"),
        f"RandAugment({operations}, {magnitude})": operations,
        "cutout": options.get("cutout"),
    }
    weak = "+".join(step for step, is_done in steps.items() if is_done) or "no augmentation"
    strong = f", strong view RandAugment({STRONG.rand_augment}, {STRONG.rand_magnitude})"
    return weak + strong * ("strong" in views)


def _teacher_source(teacher: TeacherSpec | None) -> Literal["none", "own", "file"]:
    """Return where a teacher's weights are from; those in the folder of a run are graphkd's own."""
    if teacher is None:
        return "none"
    checkpoint = teacher.checkpoint
    return "own" if checkpoint is None or (checkpoint.parent / RECORD_FILE).is_file() else "file"


def finished_record(record: Record, history: History) -> Record:
    """Return the record of a trained run."""
    return dataclasses.replace(
        record, status="done", duration_s=history.elapsed, seconds_per_step=history.seconds_per_step,
        peak_memory_mib=history.peak_memory_mib, metrics=_metrics(history),
        phases={name: seconds / history.steps for name, seconds in history.phases.items()},
    )  # fmt: skip


def _metrics(history: History) -> Metrics:
    """Return the metrics of a training."""
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
        diagnostics=dict(last.diagnostics),
    )


def _val_top1(epoch: EpochResult) -> float:
    return -1.0 if epoch.val is None else epoch.val.top1


def _test_top1(epoch: EpochResult) -> float:
    return -1.0 if epoch.test is None else epoch.test.top1


def pair_name(config: Mapping[str, Any]) -> str:
    """Return the name of the pair, teacher and student, whether or not the objective uses the teacher."""
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
    code, root = Code(importlib.metadata.version("graphkd"), plugins=dict(plugins)), checkout()
    if root is None:
        return code
    try:
        commit, dirty = git(root, "rev-parse", "HEAD").strip(), bool(uncommitted(root))
    except (OSError, subprocess.CalledProcessError):
        return code
    return dataclasses.replace(code, git=commit, dirty=dirty)


def _device(trainer: Trainer) -> str:
    device = trainer.fabric().device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
