"""Runs on several devices from the command line: one record, and an orderly end whatever happens."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import forked
import pytest
import yaml
from filelock import FileLock
from rich.console import Console

from graphkd import Trainer, UserError
from graphkd.engine.callback import Callback
from graphkd.engine.environment import cluster, in_group, is_main_process, world_size
from graphkd.engine.environment import rank as own_rank
from graphkd.report import record as records
from graphkd.run import processes
from graphkd.run.folder import busy, locked
from graphkd_cli import worker
from graphkd_cli.compose import compose
from graphkd_cli.progress import ProgressCallback

GROUP = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_JOB_NAME",
    "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "MASTER_ADDR",
)  # fmt: skip
JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}
"""Of an allocation; in a job's script too."""
STEP = {**JOB, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}
DISPLAY = "\x1b[?25l"
"""Hides the cursor: a live display begins."""


@pytest.mark.parametrize(("environment", "expected"), [
    ({}, (1, 0, False, True)),
    ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "3"}, (4, 3, True, False)),
    ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0"}, (2, 0, True, True)),
    ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
     (2, 1, True, False)),
    (STEP, (8, 5, True, False)),
    (JOB, (1, 0, False, True)),
    ({**STEP, "SLURM_JOB_NAME": "bash"}, (1, 0, False, True)),
    ({**STEP, "SLURM_STEP_ID": str(0xFFFFFFFA)}, (1, 0, False, True)),
    ({**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, (1, 0, False, True)),
])  # fmt: skip
def test_the_environment_says_who_we_are(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: tuple[int, int, bool, bool]
) -> None:
    for name in GROUP:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (world_size(), own_rank(), in_group(), is_main_process()) == expected


@pytest.mark.parametrize(("environment", "kind", "world"), [
    ({}, "LightningEnvironment", 1),
    (JOB, "LightningEnvironment", 1),
    (STEP, "Step", 8),
    ({**STEP, "SLURM_NTASKS": "16", "SLURM_NNODES": "4", "SLURM_NTASKS_PER_NODE": "3"}, "Step", 8),
    ({**STEP, "TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1"}, "TorchElasticEnvironment", 2),
])  # fmt: skip
def test_fabric_sees_the_same_processes(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], kind: str, world: int
) -> None:
    for name in GROUP:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    seen = cluster()
    seen.validate_settings(world, 1)
    assert (type(seen).__name__, seen.world_size()) == (kind, world)


def test_a_step_meets_on_its_own_first_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for name, value in {**STEP, "SLURM_NODELIST": "a[1-9]", "SLURM_STEP_NODELIST": "a[3-4]"}.items():
        monkeypatch.setenv(name, value)
    assert cluster().main_address == "a3"


def test_in_an_allocation_a_trainer_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself Fabric refuses the job, or waits for processes that nobody began."""
    for name in GROUP:
        monkeypatch.delenv(name, raising=False)
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    assert Trainer(accelerator="cpu").fabric().world_size == 1


def test_alone_everybody_agrees() -> None:
    processes.wait()
    assert processes.broadcast_object(lambda: 3) == 3


@pytest.mark.parametrize(("codes", "blamed"), [
    ([0, 0], None),
    ([None, 0], None),
    ([1, -9], (1, -9)),
    ([1, 2], (1, 2)),
    ([1, 1], (0, 1)),
    ([None, 1], (1, 1)),
    ([130, 1], (0, 130)),
])  # fmt: skip
def test_who_died_of_itself_is_blamed(codes: list[int | None], blamed: tuple[int, int] | None) -> None:
    assert processes._failure(codes) == blamed


def script(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Makes a worker of a few lines."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "tiny_worker.py").write_text("import os, signal, sys, time\nrank = int(os.environ['RANK'])\n" + source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "config.yaml"


def test_a_mistake_is_told_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any) -> None:
    config = script("print('graphkd: no such thing', file=sys.stderr); sys.exit(2)", monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"^no such thing$"):
        processes.start("tiny_worker", config, 2)
    assert capfd.readouterr().err == ""


def test_what_the_leading_one_warns_of_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any) -> None:
    config = script("print('careful', rank, file=sys.stderr)", monkeypatch, tmp_path)
    processes.start("tiny_worker", config, 2)
    assert capfd.readouterr().err == "careful 0\n"


def test_a_dead_one_ends_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those that do not even hear a SIGTERM are killed."""
    source = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(f"{os.path.dirname(__file__)}/pid-{rank}", "w").write(str(os.getpid()))
while rank == 1 and not os.path.exists(f"{os.path.dirname(__file__)}/pid-0"):
    time.sleep(0.01)
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(100)
"""
    monkeypatch.setattr(processes, "PATIENCE_S", 0.5)
    monkeypatch.setattr(processes, "_KILL_AFTER_S", 0.5)
    config = script(source, monkeypatch, tmp_path)
    with pytest.raises(RuntimeError, match=r"^rank 1 of 2 died \(SIGKILL\); the last checkpoint is kept$"):
        processes.start("tiny_worker", config, 2)
    for rank in range(2):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / f"pid-{rank}").read_text()), 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once(number: signal.Signals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = """
count = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda n, frame: count.append(n))
open(f"{os.path.dirname(__file__)}/ready-{rank}", "w").close()
while rank == 1 and not os.path.exists(f"{os.path.dirname(__file__)}/ready-0"):
    time.sleep(0.01)
if rank == 1:
    os.kill(os.getppid(), %d)
while not count:
    time.sleep(0.01)
time.sleep(0.5)
open(f"{os.path.dirname(__file__)}/count-{rank}", "w").write(str(len(count)))
sys.exit(128 + count[0])
"""
    config = script(source % number, monkeypatch, tmp_path)

    class Left(BaseException):
        pass

    def leave(signum: int, frame: object) -> None:
        raise Left

    before = signal.signal(number, leave)
    try:
        with pytest.raises(Left):
            processes.start("tiny_worker", config, 2)
    finally:
        signal.signal(number, before)
    assert [(tmp_path / f"count-{rank}").read_text() for rank in range(2)] == ["1", "1"]


def test_who_was_begun_leaves_with_the_one_that_began_it(tmp_path: Path) -> None:
    """Also one that hears no signal."""
    begun = """
import os, signal, time
from graphkd.run import processes
processes._KILL_AFTER_S = 0.1
os.dup2(os.open("{pipe}", os.O_RDONLY), 0)
if {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
processes.follow_parent()
print("ready", flush=True)
time.sleep(100)
"""
    for deaf, expected in ((False, -signal.SIGTERM), (True, 143)):
        pipe, out = tmp_path / f"pipe {deaf}", tmp_path / f"out {deaf}"
        os.mkfifo(pipe)
        process = forked.start(forked.source, [begun.format(pipe=pipe, deaf=deaf)], tmp_path, out, out)
        with pipe.open("w"):
            while process.is_alive() and not out.read_text():
                time.sleep(0.01)
            assert out.read_text() == "ready\n"
            assert process.is_alive()
        assert forked.wait(process) == expected


def test_a_display_begins_with_the_training() -> None:
    screen = io.StringIO()
    with ProgressCallback(Console(file=screen, force_terminal=True, width=100)) as callback:
        callback.note("the teacher is there")
        assert DISPLAY not in screen.getvalue()
        callback.start("teacher", 1, 2)
        callback.start("student", 1, 2)
        callback.step()
    assert screen.getvalue().count(DISPLAY) == 1
    assert screen.getvalue().count("\x1b[?25h") == 1, "the cursor is back"
    silent = io.StringIO()
    with ProgressCallback(Console(file=silent, force_terminal=True, width=100)):
        pass
    assert silent.getvalue() == ""


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    source = (
        "import sys, time\nfrom pathlib import Path\nfrom filelock import FileLock\n"
        "lock = FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); time.sleep(100)"
    )
    lock = folder.with_name(f".{folder.name}.lock")
    with subprocess.Popen([sys.executable, "-c", source, str(lock)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert busy(folder)
        holder.kill()
    with locked(folder, Callback()):
        assert busy(folder)
    assert not busy(folder)


def test_whoever_waits_for_another_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphkd.run.folder._SHORT_S", 0.01)
    monkeypatch.setattr("graphkd.run.folder._LOCK_S", 0.01)
    folder, notes = tmp_path / "run", []

    class Notes(Callback):
        def note(self, message: str) -> None:
            notes.append(message)
            threading.Timer(0.2, other.release).start()

    other = FileLock(tmp_path / ".run.lock", thread_local=False)
    other.acquire()
    with locked(folder, Notes()):
        assert notes == [f"another process is working in {folder}; waiting for it to end"]
    with locked(folder, Notes()):
        assert len(notes) == 1, "nobody is waited for"


def test_a_module_named_like_pythons_own_does_not_stop_a_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any
) -> None:
    """Those of a user in the same folder are found all the same."""
    for name in ("random", "statistics", "types", "queue", "runpy", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    (tmp_path / "my_own.py").write_text("said = 'mine'")
    monkeypatch.chdir(tmp_path)
    config = script("import random, statistics, types, my_own\nprint(my_own.said)", monkeypatch, tmp_path / "else")
    processes.start("tiny_worker", config, 1)
    assert capfd.readouterr() == ("mine\n", "")


@pytest.fixture
def small(tiny_words: list[str]) -> list[str]:
    """Overrides of a moment's run on two devices."""
    return [*tiny_words, "objective.hkd.dim=8", "negatives=16", "trainer.devices=2", "results=results"]


def student_folder(results: Path) -> Path:
    (folder,) = (path.parent for path in results.rglob("record.json") if "teachers" not in path.parts)
    return folder


def on_terminal(words: list[str], folder: Path) -> tuple[int, str, str]:
    """Calls the command on a terminal; its exit code, what it shows, and its errors."""
    pty = pytest.importorskip("pty")
    reader, terminal = pty.openpty()
    errors = folder.with_name(f"{folder.name}-errors")
    process = forked.start(forked.command, [words], folder, Path(os.ttyname(terminal)), errors, {"TERM": "xterm"})
    shown = b""
    while process.is_alive() or select.select([reader], [], [], 0)[0]:
        if select.select([reader], [], [], 0.1)[0]:
            shown += os.read(reader, 4096)
    os.close(reader)
    os.close(terminal)
    return forked.wait(process), shown.decode(), errors.read_text()


@pytest.mark.slow
def test_a_run_on_two_devices_is_one_run(small: list[str], tmp_path: Path) -> None:
    code, shown, errors = on_terminal(["run", *small], tmp_path)
    assert (code, errors) == (0, "")
    assert shown.count(DISPLAY) == 2, "of the teacher and of the student, by the leading process"
    assert shown.count("training it first") == 1
    folder = student_folder(tmp_path / "results")
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert written.keys() == {"config.yaml", "data.json", "metrics.jsonl", "record.json", "student.safetensors"}
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    again = forked.graphkd(["run", *small], tmp_path)
    assert again.returncode == 0
    assert "already finished" in again.stdout
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written


def torchrun(words: list[str]) -> None:
    """Does what `torchrun WORD ...` does."""
    from torch.distributed import run

    run.main(words)


@pytest.mark.slow
def test_torchrun_starts_it_too(small: list[str], tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump(compose(small).config))
    words = ["--nproc-per-node", "2", "--master-port", str(forked.free_port()), "-m", worker.MODULE, str(config)]
    ran = forked.run(torchrun, [words], tmp_path)
    assert ran.returncode == 0, ran.stderr[:4000]
    assert records.read(student_folder(tmp_path / "results") / "record.json").status == "done"


def children(parent: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True).stdout
    return [int(line) for line in found.split()]


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_keeps_the_checkpoint(tiny_words: list[str], tmp_path: Path) -> None:
    own = ["objective=ce", "trainer.devices=2", "trainer.epochs=2000", "trainer.checkpoint_every=5 steps"]
    words = ["run", *tiny_words, *own, "results=results"]
    errors = tmp_path / "errors"
    run = forked.start(forked.command, [words], tmp_path, Path(os.devnull), errors)
    deadline = time.monotonic() + 200
    while not list(tmp_path.rglob("checkpoint-*.pt")) and run.is_alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert run.pid is not None
    ranks = children(run.pid)
    assert len(ranks) == 2
    os.kill(max(ranks), signal.SIGKILL)
    killed = time.monotonic()
    code = forked.wait(run)
    assert time.monotonic() - killed < 60
    assert code == 1
    (line,) = errors.read_text().splitlines()
    assert line.startswith("graphkd: RuntimeError: rank 1 of 2 died (SIGKILL); the last checkpoint is kept")
    for each in ranks:
        with pytest.raises(ProcessLookupError):
            os.kill(each, 0)
    folder = student_folder(tmp_path / "results")
    assert list(folder.glob("checkpoint-*.pt"))
    assert records.read(folder / "record.json").status in ("failed", "running")


@pytest.mark.slow
def test_a_suite_on_two_devices_through_submitit(tiny_words: list[str], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    suite = tmp_path / "configs" / "ablation"
    suite.mkdir(parents=True)
    (suite / "small.yaml").write_text(
        "# @package ablation\ndescription: one\nseeds: [0]\nbase: []\nvariants:\n  taught: [objective=kd]\n"
    )
    words = [
        "ablation", "small", "--config-dir", str(tmp_path / "configs"), *tiny_words, "trainer.devices=2",
        "teacher_trainer.devices=1", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5",
    ]  # fmt: skip
    done = forked.graphkd(words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1 of 1 run is finished."
    found = [records.read(path) for path in (tmp_path / "results").rglob("record.json")]
    assert sorted((record.kind, record.status) for record in found) == [("student", "done"), ("teacher", "done")]
