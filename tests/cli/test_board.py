"""The display of a suite's processes, fed by hand."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from graphkd.engine.callback import EpochResult
from graphkd.report.record import Code, Metrics, Record
from graphkd.run import RunResult
from graphkd.run.folder import BusyError
from graphkd_cli import board, groups, progress
from graphkd_cli.board import Board
from graphkd_cli.groups import _RunCallback, _Status, read_answer, run_groups, write_groups

RECORD = Record(
    kind="student", status="done", study="s", variant="kd", pair="a->b", varied={}, identity="1a2b", seed=0,
    teacher=None, versions={}, code=Code("0.2.0"), device="cpu", threads=1, duration_s=7.0,
    metrics=Metrics(test_top1_last=91.5),
)  # fmt: skip


def screen(is_terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=100, markup=False)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def wait_for(text: str, console: Console) -> None:
    deadline = time.monotonic() + 20
    while text not in shown(console):
        assert time.monotonic() < deadline, shown(console)
        time.sleep(0.01)


def test_lines_come_as_runs_end_and_notes_once(tmp_path: Path) -> None:
    console, status = screen(False), _Status(tmp_path, 3)
    with Board(console, tmp_path, [4, 5, 6], "run"):
        status.say("teacher: resnet from here")
        status.say("teacher: resnet from here")
        status.end(5, "kd seed 1", RuntimeError("out of luck"))
        wait_for("kd seed 1: failed: RuntimeError: out of luck [run 1 of 3]", console)
        status.end(6, "kd seed 2", BusyError("another process"))
        status.end(4, "kd seed 0", RunResult(RECORD, tmp_path, reused=False))
    assert shown(console).splitlines() == [
        "teacher: resnet from here",
        "kd seed 1: failed: RuntimeError: out of luck [run 1 of 3]",
        "kd seed 0: test 91.50 % in 7 s [run 2 of 3]",
    ]
    assert read_answer(tmp_path, 6) == {
        "error": groups.BUSY,
        "line": "",
        "trained": False,
        "time": pytest.approx(time.time(), abs=60),
    }


def test_a_terminal_shows_what_each_process_is_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_SECONDS_BETWEEN_WRITES", 0.0)
    console, status = screen(True), _Status(tmp_path, 2)
    callback = _RunCallback(status, 0)
    with Board(console, tmp_path, [0, 1], "run"):
        callback.start("student kd seed 0", 2, 5)
        callback.epoch(EpochResult(1, 0.05, 2.0, {"ce": {"raw": 2.0, "weighted": 2.0}}, 12.5, None, None, 1.0))
        for _ in range(5):
            callback.step()
        wait_for("2 runs together; student kd seed 0: epoch 2/2 train 12.5 | ce 2.000", console)
        wait_for("run 0 of 2 done", console)
    status.close()
    assert not list(tmp_path.glob("*.status"))


def test_what_a_dead_process_left_does_not_turn_the_time_round(tmp_path: Path) -> None:
    (tmp_path / "gone.status").write_text(
        json.dumps({"text": "epoch 1/2", "shares": {"0": 1.0, "1": 1.0, "2": 1.0}, "pace": 1.0})
    )
    assert board.clock(0.0) in Board(screen(False), tmp_path, [0, 1], "run")._overall()


def test_the_time_of_the_teachers_training_is_not_that_of_the_students(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run's callback tells of its teacher, too; ten minutes of it are no ten minutes for a hundredth."""
    now = [1000.0]
    for module in (board, groups, progress):
        clock = SimpleNamespace(monotonic=lambda: now[0], time=time.time)
        monkeypatch.setattr(module, "time", clock)
    shown = Board(screen(False), tmp_path, list(range(10)), "run")
    callback = _RunCallback(_Status(tmp_path, 1), 0)
    callback.start("teacher resnet20 seed 0", 1, 100)
    for _ in range(99):
        now[0] += 6
        callback.step()
    callback.start("student kd seed 0", 1, 100)
    now[0] += 6
    callback.step()
    assert shown._overall() == "run 0 of 10 done, 1:39:54 left", "999 hundredths at 6 seconds"


def test_each_group_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[list[int]] = []
    monkeypatch.setattr(groups, "run_group", lambda folder, group, wait: done.append(group))
    write_groups([[0, 2], [1]], tmp_path)
    run_groups(tmp_path, wait=True)
    run_groups(tmp_path, wait=True)
    assert done == [[0, 2], [1]]
    write_groups([[1]], tmp_path)
    run_groups(tmp_path, wait=True)
    assert done[2:] == [[1]]
    assert {os.path.splitext(name)[1] for name in os.listdir(tmp_path)} == {".json", ".taken"}


def test_a_run_that_cannot_be_read_is_told_in_its_answer(tmp_path: Path) -> None:
    (tmp_path / "0.yaml").write_text("seed: x")
    groups.run_group(tmp_path, [0], wait=True)
    answer = read_answer(tmp_path, 0)
    assert answer is not None
    assert answer["line"].startswith("run 0: failed: UserError: the config lacks the node")
