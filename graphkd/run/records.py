"""Make the record of a run: at its start, and with its metrics at its end."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from graphkd.engine.callback import EpochResult, History
from graphkd.engine.trainer import Trainer
from graphkd.report.record import Code, Metrics, Record, Term
from graphkd.run.spec import RunSpec


def new_record(spec: RunSpec, group_size: int = 1) -> Record:
    """Return the record of a run that starts.

    Args:
        spec: The run.
        group_size: Number of runs that train together, this one included.
    """
    config = spec.config
    return Record(
        kind="teacher" if spec.kind == "teacher" else "student", status="running", study=str(config["study"]),
        variant=spec.variant, pair=pair_name(config), varied=dict(config.get("varied") or {}), identity=spec.identity,
        seed=spec.seed, teacher=None, versions=_versions(), code=_code(spec.plugins), device=_device(spec.trainer),
        threads=spec.trainer.threads, data=_name(config["data"]), group_size=group_size,
    )  # fmt: skip


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
    code = Code(importlib.metadata.version("graphkd"), plugins=dict(plugins))
    root = Path(__file__).resolve().parents[2]
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
