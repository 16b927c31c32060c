"""The real command: exit codes, signals, pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import forked
import pytest
from commands import Command, Plugin, students, top

from graphkd.report import record as records
from graphkd_cli.main import COMMANDS

GRAPHKD = [sys.executable, "-m", "graphkd_cli.main"]
FULL = "graphkd: standard output could not be written to: No space left on device\n"


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
        2, "", f"graphkd: there is no command 'rum'; did you mean 'run'? (choices: {', '.join(sorted(COMMANDS))})\n"
    )  # fmt: skip


def test_a_failure_is_one_line_and_one(
    command: Command, tiny_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphkd.run.run", raising(RuntimeError("out of\n  luck")))
    code, _, err = command("run", *tiny_words)
    assert (code, err) == (1, "graphkd: RuntimeError: out of (--debug shows where)\n")


def test_a_failure_of_a_plug_in_names_its_line(command: Command, tiny_words: list[str], plugin: Plugin) -> None:
    plugin("my_failing_graphs", FAILING)
    words = [word for word in tiny_words if not word.startswith(("objective=", "builder"))]
    overrides = ["plugins=[my_failing_graphs]", "objective=hkd", "builder={name: failing}"]
    code, _, err = command("run", *words, *overrides)
    assert code == 1
    assert err.splitlines()[-1] == "graphkd: KeyError: 'no' in my_failing_graphs.py, line 8 (--debug shows where)"


FAILING = """
from graphkd import BUILDERS
from graphkd.builder import GraphBuilder
@BUILDERS.register("failing")
class Failing(GraphBuilder):
    "Fails."
    def build(self, nodes):
        raise KeyError("no")
"""


def test_help_takes_a_command(command: Command) -> None:
    assert command("help", "show") == command("show", "--help")
    assert command("help").out == command().out


def test_an_interruption_is_130(command: Command, tiny_words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphkd.run.run", raising(KeyboardInterrupt()))
    code, _, err = command("run", *tiny_words)
    assert code == 130
    assert err.startswith("graphkd: interrupted")
    assert len(err.splitlines()) == 1


def test_an_interrupted_training_is_neither_done_nor_failed(
    command: Command, folder: Path, tiny_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphkd.engine.loop.evaluate", raising(KeyboardInterrupt()))
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
    assert real(["list", "builders"], folder).returncode == 0
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
    errors = folder.with_name("errors")
    process = forked.start(forked.command, [words], folder, Path(os.devnull), errors)
    until = time.monotonic() + 100
    while not (folder / "out" / "metrics.jsonl").exists() and time.monotonic() < until:
        assert process.is_alive()
        time.sleep(0.05)
    process.terminate()
    assert forked.wait(process) == 143
    assert errors.read_text() == "graphkd: terminated; run the same command again to resume\n"
    record = records.read(folder / "out" / "record.json")
    assert (record.status, record.error) == ("running", None)
    assert list((folder / "out").glob("checkpoint-*.pt"))


# Outputs, signals and modules of odd places


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of a shell in which GRAPHKD stands for the command."""
    line = line.replace("GRAPHKD", " ".join(GRAPHKD))
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=200
    )


@pytest.mark.slow
def test_a_run_without_any_streams_ends_well(folder: Path, tiny_words: list[str]) -> None:
    words = " ".join(f"'{word}'" for word in [*tiny_words, "objective=ce"])
    done = shell(f"GRAPHKD run {words} <&- >&- 2>&-", folder)
    assert (done.returncode, done.stderr) == (0, "")
    (record,) = students(folder).values()
    assert record.status == "done"


@pytest.mark.slow
def test_a_run_on_a_full_disk_ends_well(folder: Path, tiny_words: list[str]) -> None:
    errors = folder.with_name("errors")
    words = ["run", *tiny_words, "objective=ce"]
    assert forked.wait(forked.start(forked.command, [words], folder, Path("/dev/full"), errors)) == 1
    assert errors.read_text() == FULL
    (record,) = students(folder).values()
    assert record.status == "done"


@pytest.mark.parametrize(("redirected", "code", "errors"), [
    (">&-", 0, ""),
    ("2>&-", 0, ""),
    ("<&- >&- 2>&-", 0, ""),
    ("2>/dev/full", 0, ""),
    (">/dev/full", 1, FULL),
])  # fmt: skip
def test_whatever_is_said_is_no_trouble_where_it_cannot_be(
    folder: Path, redirected: str, code: int, errors: str
) -> None:
    said = shell(f"GRAPHKD --help {redirected}", folder)
    assert (said.returncode, said.stderr) == (code, errors)
    wrong = shell(f"GRAPHKD run builder=knnn {redirected}", folder)
    assert wrong.returncode == 2


@pytest.mark.slow
def test_a_run_outlives_its_reader(folder: Path, tiny_words: list[str]) -> None:
    errors, pipe = folder.with_name("errors"), folder.with_name("pipe")
    os.mkfifo(pipe)
    words = ["run", *tiny_words, "objective=ce"]
    process = forked.start(forked.command, [words], folder, pipe, errors)
    with pipe.open() as reader:
        assert reader.read(1)
    assert (forked.wait(process), errors.read_text()) == (1, "")
    (record,) = students(folder).values()
    assert record.status == "done"


@pytest.mark.slow
def test_without_assertions_overrides_are_read_all_the_same(command: Command, folder: Path) -> None:
    words = ["run", "student={name: resnet8, widths: [2, 2, 4, 4]}", "--cfg", "job"]
    optimised = real(words, folder, env=os.environ | {"PYTHONOPTIMIZE": "2"})
    assert (optimised.returncode, optimised.stdout, optimised.stderr) == command(*words)


@pytest.fixture
def hears_hang_ups() -> Iterator[None]:
    """Makes new processes hear them, even if the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hears_hang_ups")
@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_is_closed_ends_a_command_in_order_unless_it_is_to_go_on(folder: Path, ignored: bool) -> None:
    """What a training does then, the test of SIGTERM shows."""
    seconds = 0.5 if ignored else 100
    code = (
        "import sys, time; from graphkd_cli.main import guarded\n"
        f"sys.exit(guarded(lambda: print('begun', flush=True) or time.sleep({seconds}) or 0))"
    )
    with subprocess.Popen(
        [*(["nohup"] if ignored else []), sys.executable, "-c", code], cwd=folder, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=60)
    if ignored:
        assert process.returncode == 0
    else:
        assert (process.returncode, err) == (143, "graphkd: terminated; run the same command again to resume\n")


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="there Python has no safe path")
def test_modules_named_like_pythons_own_do_not_break_a_launchers_processes(folder: Path, tiny_words: list[str]) -> None:
    for name in ("random", "statistics", "types", "queue", "torch"):
        (folder / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    words = " ".join(f"'{word}'" for word in [*tiny_words, "objective=ce"])
    # As the installed command begins: without the current folder among those of modules.
    begin = "import sys; sys.path = [*filter(None, sys.path)]; from graphkd_cli.main import main; sys.exit(main())"
    words += " seed=0 hydra/launcher=joblib hydra.launcher.n_jobs=2"
    done = shell(f'{sys.executable} -c "{begin}" run -m {words}', folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert [record.status for record in students(folder).values()] == ["done"]
