"""Disks that are full or gone, files that are torn or altered, and files that mean harm."""

from __future__ import annotations

import ast
import errno
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from filelock import FileLock

import graphkd
from graphkd import UserError, files
from graphkd.engine.callback import Callback
from graphkd.engine.checkpoint import Checkpoints
from graphkd.engine.weights import load_weights
from graphkd.report import record as records
from graphkd.run import parse, run
from graphkd.run.folder import busy
from graphkd_cli.main import main

Config = Callable[..., dict[str, Any]]
ALONE = {"objective": {"ce": "ce"}, "trainer.checkpoint_every": "1 steps", "trainer.epochs": 3}
PACKAGES = [Path(graphkd.__file__).parent, Path(graphkd.__file__).parent.parent / "graphkd_cli"]


class Answer(NamedTuple):
    code: int
    err: str


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Calls `graphkd WORD ...` in an empty folder; there is never a traceback."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Answer:
        capsys.readouterr()
        code = main(words)
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return Answer(code, err.removeprefix("graphkd: "))

    return call


class At(Callback):
    """Does something after a number of steps."""

    def __init__(self, step: int, deed: Callable[[], object]) -> None:
        self.left, self.deed = step, deed

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.deed()


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Disks


def test_a_full_disk_leaves_the_earlier_checkpoints(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = parse(tiny_config(ALONE))
    before: dict[str, bytes] = {}

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill() -> None:
        before.update(contents(spec.folder))
        monkeypatch.setattr(files.os, "fsync", full)

    with pytest.raises(OSError, match=r"checkpoint-2\.pt cannot be written: No space left on device"):
        run(spec, At(3, fill))
    assert contents(spec.folder) == before
    assert {"checkpoint-0.pt", "checkpoint-1.pt"} <= before.keys()
    monkeypatch.undo()
    resumed = run(spec)
    assert resumed.record.status == "done"


def test_a_limit_on_the_size_of_files_is_a_full_disk(
    command: Callable[..., Answer], tiny_words: list[str], tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    try:
        code, err = command("run", *tiny_words, "objective=ce", "trainer.checkpoint_every=1 steps")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, err.count("\n")) == (1, 1)
    assert "checkpoint-0.pt cannot be written: File too large" in err
    (folder,) = tmp_path.glob("results/adhoc/*/*/seed-0")
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "data.json", "record.json"}
    assert records.read(folder / "record.json").status == "failed"


def test_a_results_folder_that_is_deleted_meanwhile_is_told(tiny_config: Config, tmp_path: Path) -> None:
    spec = parse(tiny_config(ALONE))
    with pytest.raises(OSError, match="cannot be written: its folder is gone"):
        run(spec, At(2, lambda: shutil.rmtree(tmp_path / "results")))
    assert run(spec).record.status == "done"


def test_a_folder_that_may_only_be_read_is_told(
    command: Callable[..., Answer], tiny_words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    code, err = command("run", *tiny_words, "objective=ce")
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot be written in" in err
    assert not any((tmp_path / "results").rglob("record.json"))


def test_what_killed_writers_left_is_removed(tiny_config: Config) -> None:
    spec = parse(tiny_config(ALONE))
    spec.folder.mkdir(parents=True)
    (spec.folder / ".record.json.17-0123abcd.tmp").write_text("{")
    result = run(spec)
    (result.folder / ".checkpoint-1.pt.18-0123abcd.tmp").write_text("half")
    assert files.remove_unfinished(result.folder) is None
    assert {p.name for p in result.folder.iterdir()} == {
        "config.yaml", "data.json", "metrics.jsonl", "record.json", "student.safetensors",
    }  # fmt: skip


def test_a_lock_whose_owner_died_is_free(tiny_config: Config) -> None:
    spec = parse(tiny_config(ALONE))
    lock = spec.folder.with_name(f".{spec.folder.name}.lock")
    lock.parent.mkdir(parents=True)
    hold = (
        "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire();"
        "print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert busy(spec.folder)
    holder.kill()
    holder.communicate()
    assert not busy(spec.folder)
    assert run(spec).record.status == "done"
    with FileLock(lock, timeout=0):
        assert busy(spec.folder)


@pytest.mark.parametrize("pair", ["../pair/digits", "../../configs/pair/digits", "digits/../digits", "/digits", ".."])
def test_a_pair_does_not_lead_out_of_the_results(command: Callable[..., Answer], tmp_path: Path, pair: str) -> None:
    suite = f"description: x\nseeds: [0]\nbase: []\npairs: ['{pair}']\nvariants: {{a: [objective=ce]}}\n"
    (tmp_path / "own" / "ablation").mkdir(parents=True)
    (tmp_path / "own" / "ablation" / "out.yaml").write_text(suite)
    code, err = command("ablation", "out", "--config-dir", "own")
    assert (code, err.count("\n")) == (2, 1)
    assert pair in err
    assert {path.name for path in tmp_path.iterdir()} == {"own"}


# Torn, altered and malicious files


@pytest.fixture
def finished(tiny_config: Config) -> Path:
    """The folder of a finished run."""
    return run(parse(tiny_config({"objective": {"ce": "ce"}}))).folder


FILES = ["record.json", "config.yaml", "student.safetensors"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["empty", "half", "bytes", "deep", "gone"])
def test_a_torn_file_of_a_run_is_told_in_one_line(
    command: Callable[..., Answer], finished: Path, name: str, harm: str
) -> None:
    path = finished / name
    content = path.read_bytes()
    harmed = {"empty": b"", "half": content[: len(content) // 2], "bytes": b"\xff\x00" * 99, "deep": b"[" * 100_000}
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(harmed[harm])
    code, err = command("evaluate", str(finished))
    assert (code, err.count("\n")) == (2, 1), err
    assert name in err
    if name == "record.json":
        assert command("report", "results").code == 2


def test_an_altered_weight_is_noticed(command: Callable[..., Answer], finished: Path) -> None:
    path = finished / "student.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    code, err = command("evaluate", str(finished))
    assert code == 2
    assert "were altered" in err


def test_metrics_are_for_people_and_may_be_anything(command: Callable[..., Answer], finished: Path) -> None:
    (finished / "metrics.jsonl").write_text("torn")
    assert command("evaluate", str(finished)).code == 0
    assert command("report", "results").code == 0


def test_a_weights_file_of_absurd_size_takes_no_memory(finished: Path) -> None:
    network = graphkd.load(finished).student
    for name in ("sparse.pth", "sparse.safetensors"):
        with (finished / name).open("wb") as file:
            file.truncate(1 << 42)
        with pytest.raises(UserError, match=f"{name} is refused: it holds 4194304 MiB"):
            load_weights(network, finished / name)


def test_a_nested_weights_file_is_refused(finished: Path) -> None:
    nested: Any = {"a": torch.zeros(1)}
    for _ in range(300):
        nested = {"a": nested}
    torch.save(nested, finished / "deep.pth")
    with pytest.raises(UserError, match=r"deep\.pth holds no state dict"):
        load_weights(graphkd.load(finished).student, finished / "deep.pth")


@pytest.mark.parametrize("state", [Bomb, lambda crater: [1, 2]])
def test_a_checkpoint_that_holds_something_else_is_passed_over(tmp_path: Path, state: Callable[[Path], Any]) -> None:
    checkpoints = Checkpoints(tmp_path, "1 steps")
    checkpoints.save({"good": 1})
    checkpoints.save(state(tmp_path / "crater"))
    found, problems = checkpoints.load()
    assert found == {"good": 1}
    assert len(problems) == 1
    assert "checkpoint-1.pt" in problems[0]
    assert not (tmp_path / "crater").exists()


def test_a_checkpoint_of_another_length_is_not_even_read(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "1 steps")
    checkpoints.save({"good": 1})
    with (tmp_path / "checkpoint-0.pt").open("r+b") as file:
        file.truncate(1 << 42)
    assert checkpoints.load() == (None, [f"the checkpoint {tmp_path / 'checkpoint-0.pt'} is truncated or was altered"])


def calls(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Dotted names of what a module calls, with the keywords."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [(ast.unparse(node.func), {str(k.arg): ast.unparse(k.value) for k in node.keywords}) for node in nodes]


def test_nothing_unpickles() -> None:
    """No module reads a pickle, or YAML that makes objects."""
    forbidden = {"pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "joblib.load", "eval", "exec"}
    seen = 0
    for path in (path for package in PACKAGES for path in package.rglob("*.py")):
        for name, keywords in calls(path):
            assert name not in forbidden, f"{path}: {name}"
            assert not name.endswith(("read_pickle", "Unpickler")), f"{path}: {name}"
            if name == "torch.load":
                seen += 1
                assert keywords.get("weights_only") == "True", path
            if name in ("np.load", "numpy.load"):
                assert keywords.get("allow_pickle", "False") == "False", path
    assert seen == 2
    assert pickle.dumps(Bomb(Path("x"))), "the tests' own bomb is one"
