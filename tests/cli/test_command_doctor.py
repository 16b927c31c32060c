from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from commands import Command, top

from graphkd_cli import doctor


class Usage(NamedTuple):
    """What `shutil.disk_usage` returns."""

    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which all is well, whatever it is."""
    monkeypatch.setattr(doctor, "cores", lambda: 4)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9 << 30, 0, 9 << 30))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def rows(out: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]


def test_a_sound_machine_is_well(command: Command, folder: Path) -> None:
    answer = command("doctor")
    assert (answer.code, answer.err) == (0, "")
    found = rows(answer.out)
    assert list(dict.fromkeys(row[0] for row in found if row[0])) == list(doctor.CHECKS)
    assert {row[2] for row in found} == {"ok"}
    assert answer.out.splitlines()[-1] == "No problems found."
    assert top(folder) == set(), "nothing is written"


def requires(package: str, lines: list[str]) -> Callable[[str], list[str] | None]:
    real = importlib.metadata.requires
    return lambda name: lines if name == package else real(name)


def broken(*_: Any, **__: Any) -> Any:
    raise OSError("libcudart is gone")


@pytest.mark.parametrize(
    ("check", "patched", "value", "found", "mend"),
    [
        ("versions", "importlib.metadata.requires", requires("graphkd", ["filelock>=999"]),
         "requires filelock>=999, but there is ", "pip install 'filelock>=999'"),
        ("versions", "importlib.metadata.requires", requires("graphkd", ["none-such>=1", "x>2; extra == 'x'"]),
         "requires none-such>=1, but there is none", "pip install 'none-such>=1'"),
        ("torch", "importlib.metadata.requires", requires("torchvision", ["numpy", "torch==1.0"]),
         "which needs torch==1.0", "pip install --upgrade --force-reinstall torch torchvision"),
        ("torch", "torch.zeros", broken, "OSError: libcudart is gone", "force-reinstall torch torchvision"),
        ("DGL", "graphkd.gnn.base.GNNS.build", broken, "OSError: libcudart is gone", "force-reinstall 'dgl>=2.1'"),
        ("devices", "shutil.which", lambda _: "/bin/nvidia-smi", "there is an NVIDIA driver, but torch", "nvidia-smi"),
        ("threads", "graphkd_cli.doctor.cores", lambda: 1, "1 cores, 2 threads a run",
         "graphkd run trainer.threads=1 teacher_trainer.threads=1"),
        ("folders", "shutil.disk_usage", lambda _: Usage(9, 8, 1), "0.0 GiB free", "graphkd run results=FOLDER"),
        ("self-test", "graphkd.data.base.DATASETS.build", broken, "libcudart is gone", "make clean install"),
    ],
)  # fmt: skip
def test_a_problem_comes_with_what_mends_it(
    command: Command, monkeypatch: pytest.MonkeyPatch, check: str, patched: str, value: Any, found: str, mend: str
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {check: doctor.CHECKS[check]})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(patched, value)
    answer = command("doctor")
    assert (answer.code, answer.err) == (1, "")
    text = " ".join(cell for row in rows(answer.out) for cell in row)
    assert found in text
    assert "fix: " in text
    assert mend in text
    assert "found" in answer.out.splitlines()[-1]


def test_threads_that_are_asked_for_are_compared(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"threads": doctor.CHECKS["threads"]})
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert "export OMP_NUM_THREADS=4" in command("doctor").out


def test_a_file_in_the_place_of_results_is_a_problem(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"folders": doctor.CHECKS["folders"]})
    (folder / "results").write_text("")
    answer = command("doctor")
    assert answer.code == 1
    assert "results, 9.0 GiB free, cannot be written" in answer.out
    assert answer.out.splitlines()[-1] == "1 problem was found"


def test_bf16_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for native, told in ((True, "native"), (False, "emulated")):
        monkeypatch.setattr("graphkd.engine.trainer.has_bf16", lambda native=native: native)
        (finding,) = doctor.CHECKS["bf16"]()
        assert finding.found.startswith(told)
        assert finding.mend is None


def test_it_takes_nothing(command: Command) -> None:
    answer = command("doctor", "trainer.lr=1")
    assert (answer.code, answer.out) == (2, "")
    assert "unrecognized arguments" in answer.err
