"""Many runs in one process, and many records in one report, take no more than a few."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from graphkd.files import write_atomically
from graphkd.report.load import RUN_FILES
from graphkd.report.record import Code, Metrics, Record, Teacher, Term
from graphkd.run import parse, run
from graphkd_cli import groups
from graphkd_cli.main import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

RUNS = 60
MOST_MIB_A_RUN = 0.25
RUN_GROUP = groups.run_group
FOLDERS = 2000
MOST_SECONDS = 5.0
MOST_MIB = 500
RECORD = Record(
    kind="student", status="done", study="", variant="", pair="resnet8->resnet8", data="digits", varied={},
    identity="", seed=0, teacher=Teacher("a" * 64, 90.0), versions={"python": "3", "torch": "2"},
    code=Code("0.1.0", "ab" * 20, False), device="cpu", threads=1, duration_s=1.0, seconds_per_step=0.1,
    peak_memory_mib=100.0, phases={"data": 0.1, "student": 0.2},
)  # fmt: skip


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def check_flat(seen: list[tuple[float, int]], what: str) -> None:
    """Memory and open files, as they were after each run, do not grow once the first third has warmed everything up."""
    runs, warm = len(seen), len(seen) // 3
    (early, files), (late, files_later) = seen[warm], seen[-1]
    print(f"{runs} runs {what}: {early:.0f} MiB after {warm}, {late:.0f} MiB at the end, {files_later} files open")
    assert files_later == files
    assert late < early + MOST_MIB_A_RUN * (runs - warm)


@pytest.mark.soak
def test_memory_and_open_files_stay_flat_over_many_runs(tiny_config: Callable[..., dict[str, Any]]) -> None:
    seen: list[tuple[float, int]] = []
    for seed in range(RUNS):
        assert run(parse(tiny_config({"seed": seed}))).record.status == "done"
        gc.collect()
        seen.append((resident_mib(), open_files()))
    check_flat(seen, "in one process")


@pytest.mark.soak
def test_memory_and_open_files_stay_flat_over_a_suite(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = {"taught": ["objective=kd"], "alone": ["objective=ce"]}
    suite = {"description": "long", "seeds": list(range(RUNS // 2)), "base": tiny_words, "variants": variants}
    (tmp_path / "own" / "ablation").mkdir(parents=True)
    (tmp_path / "own" / "ablation" / "long.yaml").write_text(json.dumps(suite))
    seen: list[tuple[float, int]] = []

    def run_group(folder: Path, group: Sequence[int], wait: bool) -> None:
        RUN_GROUP(folder, group, wait)
        gc.collect()
        seen.append((resident_mib(), open_files()))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(groups, "run_group", run_group)
    assert main(["ablation", "long", "--config-dir", "own", "--jobs", "1", "--alone"]) == 0
    assert f"{RUNS} of {RUNS} runs are finished." in capsys.readouterr().out
    assert len(seen) == RUNS + 1, "and the teacher"
    check_flat(seen, "of a suite")


def write_results(folder: Path, studies: int = 10, seeds: int = 10) -> None:
    """Folders as suites leave them, of figures that differ."""
    each = FOLDERS // studies // seeds
    for number in range(FOLDERS):
        study, rest = divmod(number, each * seeds)
        variant, seed = divmod(rest, seeds)
        top1 = 80.0 + (number * 7919 % 1000) / 100
        metrics = Metrics(
            test_top1_last=top1, test_top1_at_best_val=top1, val_top1_best=top1, test_top1_max=top1,
            test_top5_last=99.0, test_nll_last=0.5, agreement_last=90.0,
            terms={name: Term(1.0, 0.5) for name in ("ce", "kd", "hkd.individual", "hkd.holistic")},
        )  # fmt: skip
        record = dataclasses.replace(
            RECORD, study=f"study{study}", variant=f"variant{variant}", varied={"builder.k": variant},
            identity=f"{study:032x}{variant:032x}", seed=seed, metrics=metrics,
        )  # fmt: skip
        place = folder / record.study / record.variant / f"{variant:012x}" / f"seed-{seed}"
        place.mkdir(parents=True)
        write_atomically(place / "record.json", record.to_json(), durable=False)
        for name in RUN_FILES:
            (place / name).write_text("a file of some length\n" * 50)


REPORT = """
import re, sys, time
from graphkd_cli.main import main
code = main(["report", sys.argv[1]])
peak = re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())
print(code, time.process_time(), int(peak[1]) / 1024, "torch" in sys.modules, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.soak
def test_a_report_over_many_folders_is_quick_and_small(tmp_path: Path) -> None:
    write_results(tmp_path / "results")
    words = [sys.executable, "-c", REPORT, str(tmp_path / "results")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads that wait would count as work
    seconds = []
    for _ in range(5):  # beside other work everything takes longer, also counted in processor time
        started = time.monotonic()
        ended = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
        passed, load = time.monotonic() - started, os.getloadavg()[0]
        code, took, mib, torch = ended.stderr.splitlines()[-1].split()
        print(
            f"{FOLDERS} folders: {float(took):.1f} s of processor time in {passed:.1f} s at a load of {load:.1f},"
            f" {float(mib):.0f} MiB"
        )
        assert (code, torch) == ("0", "False")
        assert float(mib) < MOST_MIB
        seconds.append(float(took))
        if min(seconds) < MOST_SECONDS:
            break
    assert min(seconds) < MOST_SECONDS
