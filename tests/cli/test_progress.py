"""What is seen of trainings while they go."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from graphkd.engine.callback import EpochResult
from graphkd.engine.evaluate import Evaluation
from graphkd_cli import progress
from graphkd_cli.progress import ProgressCallback, Runs, figures, present_runs, several

NAME = "student ce+kd+hkd-knn-tag seed 0"
TEST = Evaluation(top1=97.5, top5=99.0, nll=0.1, agreement=None, samples=9)


def an_epoch(number: int, terms: int = 4) -> EpochResult:
    """What an epoch came to."""
    losses = {f"hkd.term{index}": {"raw": 10.046, "weighted": 8.13} for index in range(terms)}
    return EpochResult(number, 0.1, 1.0, losses, 12.5, None, TEST, 1.0)


def a_screen(width: int, is_terminal: bool = True) -> Console:
    """A screen that is kept."""
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=width, color_system="standard", markup=False)


def shown(console: Console) -> str:
    """What was printed, without what moves the cursor."""
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue()).replace("\r", "\n")


@given(width=st.integers(40, 400), terms=st.integers(0, 20), epochs=st.sampled_from([1, 60, 1000]))
def test_epoch_bar_and_time_come_first_and_figures_go_whole(width: int, terms: int, epochs: int) -> None:
    console = a_screen(width)
    with ProgressCallback(console) as callback:
        callback.start(NAME, epochs + 1, 3)
        callback.epoch(an_epoch(epochs, terms))
        callback._progress.refresh()
    *_, line = (line for line in shown(console).splitlines() if line.startswith("epoch"))
    found = re.fullmatch(r"epoch (\d+)/(\d+) ━{3,}.* (-|\d+):(--|\d\d):(--|\d\d) left ?(.*)", line.rstrip())
    assert found is not None, line
    words = " ".join(figures(an_epoch(epochs, terms)))
    assert f"{words} ".startswith(f"{found[6].strip()} ") or not found[6].strip()
    assert NAME in shown(console)
    assert "…" not in shown(console)
    assert width < 80 or "test 97.5" in line


def test_the_name_of_a_training_is_never_cut() -> None:
    console = a_screen(40)
    with ProgressCallback(console) as callback:
        callback.start("x" * 100, 2, 3)
    assert "x" * 20 in shown(console)
    assert "…" not in shown(console)
    assert shown(console).split("epoch")[0].replace("\n", "").count("x") == 100


def test_the_display_ends_with_the_last_epoch_and_begins_with_the_next_training() -> None:
    console = a_screen(80)
    assert isinstance(console.file, io.StringIO)
    with ProgressCallback(console) as callback:
        callback.start("teacher", 1, 1)
        callback.epoch(an_epoch(1))
        assert console.file.getvalue().count("\x1b[?25h") == 1, "another process may have the screen now"
        callback.start("student", 1, 1)
    assert console.file.getvalue().count("\x1b[?25l") == 2
    assert console.file.getvalue().count("\x1b[?25h") == 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds; set it."""
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_suite_says_what_runs_now_how_many_are_done_and_the_time_left(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = a_screen(80)
    monkeypatch.setattr(progress, "console", lambda: console)
    runs = Runs(4)
    with runs.watch() as callback:
        callback.start("student kd seed 0", 2, 5)
        assert runs.line(0.0) == "run 1 of 4, -:--:-- left for all"
        clock[0] += 30
        assert runs.line(0.5) == "run 1 of 4, 0:03:30 left for all"
        callback._progress.refresh()
    assert "run 1 of 4, " in shown(console)
    assert "student kd seed 0" in shown(console)
    assert "epoch 1/2" in shown(console)
    clock[0] += 30
    runs.finished("kd seed 0: test 97.22 % in 60 s", trained=True)
    assert "kd seed 0: test 97.22 % in 60 s [run 1 of 4]" in shown(console)
    runs.watch()
    runs.finished("kd seed 1: test 97.00 % (already finished)")
    runs.watch()
    clock[0] += 20
    assert runs.line(0.1) == "run 3 of 4, 0:01:40 left for all", "runs that were there say nothing about the pace"


def test_the_first_runs_teacher_says_nothing_about_the_time_of_the_others(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "console", lambda: a_screen(80))
    runs = Runs(3)
    with runs.watch() as callback:
        callback.start("teacher resnet20 seed 0", 2, 5)
        clock[0] += 1000
        callback.start("student kd seed 0", 2, 5, done=5)
        clock[0] += 10
        assert runs.line(0.75) == "run 1 of 3, 0:01:30 left for all", "a quarter takes 10 s, the first half is resumed"


def test_several_runs_note_the_same_thing_once_and_tell_of_long_trainings(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = a_screen(200, is_terminal=False)
    monkeypatch.setattr(progress, "console", lambda: console)
    runs = Runs(2)
    for seed in (0, 1):
        with runs.watch() as callback:
            callback.note("3 images were left out")
            callback.note(f"waiting for seed {seed}")
            callback.start(f"kd seed {seed}", 3, 5)
            for number in (1, 2, 3):
                clock[0] += 20
                callback.epoch(an_epoch(number, terms=1))
    assert shown(console).splitlines() == [
        "3 images were left out",
        "waiting for seed 0",
        "kd seed 0: epoch 2/3 train 12.5 test 97.5 | hkd.term0 10.046",
        "waiting for seed 1",
        "kd seed 1: epoch 2/3 train 12.5 test 97.5 | hkd.term0 10.046",
    ]


def test_jobs_of_this_process_share_the_display_and_others_draw_nothing() -> None:
    with several():
        runs = present_runs()
        assert runs.live
        assert present_runs() is runs
    other = present_runs()
    assert not other.live
    assert present_runs() is other
