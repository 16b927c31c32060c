"""The real command: exit codes, signals, pipes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import Command, students, top

from graphkd.report import record as records
from graphkd_cli.main import COMMANDS

GRAPHKD = [sys.executable, "-m", "graphkd_cli.main"]


def real(words: Sequence[str], folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs the command as a process of its own."""
    return subprocess.run([*GRAPHKD, *words], cwd=folder, capture_output=True, text=True, timeout=120, **options)


def raising(error: BaseException) -> Any:
    def function(*_: Any, **__: Any) -> Any:
        raise error

    return function


# Help


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(command: Command, words: list[str]) -> None:
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("word", ["--help", "-h"])
def test_every_command_has_help(command: Command, folder: Path, name: str, word: str) -> None:
    code, out, err = command(name, word)
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: graphkd {name} ")
    assert top(folder) == set()


def test_the_version_is_that_of_the_package(command: Command) -> None:
    from importlib.metadata import version

    assert command("--version").out == f"graphkd {version('graphkd')}\n"


# Exit codes


def test_a_mistake_is_one_line_and_two(command: Command, folder: Path) -> None:
    assert command("rum") == (
        2, "", f"graphkd: there is no command 'rum'; did you mean 'run'? (commands: {', '.join(sorted(COMMANDS))})\n"
    )  # fmt: skip


def test_a_failure_is_one_line_and_one(
    command: Command, tiny_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphkd.run.run", raising(RuntimeError("out of\n  luck")))
    code, _, err = command("run", *tiny_words)
    assert (code, err) == (1, "graphkd: RuntimeError: out of (--debug shows where)\n")


def test_an_interruption_is_130(command: Command, tiny_words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphkd.run.run", raising(KeyboardInterrupt()))
    code, _, err = command("run", *tiny_words)
    assert code == 130
    assert err.startswith("graphkd: interrupted")
    assert len(err.splitlines()) == 1


def test_an_interrupted_training_is_neither_done_nor_failed(
    command: Command, folder: Path, tiny_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphkd.engine.session.evaluate", raising(KeyboardInterrupt()))
    assert command("run", *tiny_words, "objective=ce").code == 130
    (record,) = students(folder).values()
    assert (record.status, record.error) == ("running", None)


@pytest.mark.parametrize("at", [0, 1, -1])
def test_debug_shows_where(command: Command, folder: Path, at: int) -> None:
    words = ["run", "builder=knnn"]
    words.insert(at if at >= 0 else len(words), "--debug")
    code, _, err = command(*words)
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("graphkd: builder has no config 'knnn'; did you mean 'knn'?")


def test_a_real_process_has_the_same_codes(folder: Path) -> None:
    wrong = real(["run", "builder=knnn"], folder)
    assert (wrong.returncode, wrong.stdout, len(wrong.stderr.splitlines())) == (2, "", 1)
    assert real(["list", "suites"], folder).returncode == 0
    assert top(folder) == set()


# Pipes and signals


@pytest.mark.parametrize("words", [["--help"], ["list", "suites"]])
def test_a_reader_that_leaves_early_sees_no_traceback(folder: Path, words: list[str]) -> None:
    process = subprocess.Popen([*GRAPHKD, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


@pytest.mark.slow
def test_sigterm_ends_a_training_in_order(folder: Path, tiny_words: list[str]) -> None:
    words = ["run", *tiny_words[1:], "objective=ce", "trainer.epochs=100000", "run_dir=out"]
    process = subprocess.Popen(
        [*GRAPHKD, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 100
    while not (folder / "out" / "metrics.jsonl").exists() and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err == "graphkd: terminated; the same command goes on where it was\n"
    record = records.read(folder / "out" / "record.json")
    assert (record.status, record.error) == ("running", None)
    assert list((folder / "out").glob("checkpoint-*.pt"))
