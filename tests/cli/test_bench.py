"""The command: its options, its table and its files."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import pytest
import torch

from graphkd import bench
from graphkd.bench import Effort, Settings
from graphkd_cli.main import main


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes and effort that take no time."""
    small = partial(
        Settings, batch=12, samples=240, negatives=40, dim=16, classes=6, k=4, teacher="resnet8", student="resnet8"
    )
    monkeypatch.setattr(bench, "Settings", small)
    monkeypatch.setattr(bench, "QUICK", Effort(seconds=0, least=2, most=2, full=False))


@pytest.mark.slow
def test_prints_a_table_and_writes_it(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench"
    assert main(["bench", "sampling", "loss", "--quick", "--threads", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "times faster" in printed
    assert "numpy.random.choice" in printed
    document = json.loads((out / "bench.json").read_text())
    assert document["hardware"]["threads"] == 1
    assert document["command"].startswith("graphkd bench sampling loss --quick")
    with (out / "bench.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["part"] for row in rows] == ["loss"] * 2 + ["sampling"] * 2
    assert all(float(row["graphkd_mib"]) >= 0 and float(row["baseline_mib"]) >= 0 for row in rows)


@pytest.mark.usefixtures("tiny")
def test_prints_only_unless_told_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "loss", "--quick", "--threads", "1"]) == 0
    assert "shared" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["samplin"], "bench has no part 'samplin'; did you mean 'sampling'?"),
        (["--quik"], "--quik"),
        (["--device", "gpu"], "invalid choice: 'gpu'"),
        (["--threads", "0"], "--threads is 0, but must be at least 1"),
        (["--threads", "two"], "invalid int value: 'two'"),
        (["--out", __file__], "is not a folder"),
    ],
)
def test_mistakes_end_with_one_line_and_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_gpu_is_said_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_help_names_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {part} " in shown for part in bench.PARTS)
