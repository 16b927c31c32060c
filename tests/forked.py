"""Processes that are forked from one that has everything imported, for imports take most of a new one's time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

PATIENCE_S = 240.0
_PRELOAD = (
    "lightning_fabric", "graphkd.run", "graphkd.bench.preload", "graphkd_cli.ablation", "graphkd_cli.progress",
    "graphkd_cli.report", "sklearn.datasets",
)  # fmt: skip


def server() -> ForkServerContext:
    """Return what starts such processes; `graphkd bench` uses the same server where this was called first."""
    context = multiprocessing.get_context("forkserver")
    if forkserver._forkserver._forkserver_pid is None:  # type: ignore[attr-defined]
        context.set_forkserver_preload(list(_PRELOAD))
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
            forkserver.ensure_running()
    return context


def start(
    function: Callable[..., object], arguments: Sequence[object], folder: Path, out: Path, err: Path,
    environment: Mapping[str, str] | None = None,
) -> ForkServerProcess:  # fmt: skip
    """Starts a process that calls a function in a folder, as the leader of its own group.

    Args:
        function: What it calls; it must pickle.
        arguments: Those of the function.
        folder: Where it works.
        out: What takes its standard output: a file, or another thing that can be opened.
        err: What takes its standard error; may be the same.
        environment: What is added to the environment of this process.
    """
    words = (function, tuple(arguments), str(folder), str(out), str(err), {**os.environ, **(environment or {})})
    process = server().Process(target=_call, args=words)
    process.start()
    return process


def _call(
    function: Callable[..., object], arguments: tuple[Any, ...], folder: str, out: str, err: str,
    environment: dict[str, str],
) -> None:  # fmt: skip
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, flags, 0o666)
        os.dup2(file, number)
        os.close(file)
    function(*arguments)


def command(words: Sequence[str]) -> None:
    """Does what `graphkd WORD ...` does, and ends the process."""
    from graphkd_cli.main import main

    sys.exit(main(list(words)))


def source(code: str) -> None:
    """Runs the source of a program."""
    exec(compile(code, "<source>", "exec"), {"__name__": "__main__"})


def run(
    function: Callable[..., object], arguments: Sequence[object], folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Calls a function in a process as `start` does and waits for its end; what it printed is in the result."""
    with tempfile.TemporaryDirectory() as printed:
        out, err = Path(printed, "out"), Path(printed, "err")
        code = wait(start(function, arguments, folder, out, err, environment))
        return subprocess.CompletedProcess(list(arguments), code, out.read_text(), err.read_text())


def graphkd(words: Sequence[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `graphkd WORD ...` in a folder."""
    return run(command, [list(words)], folder, **environment)


def wait(process: ForkServerProcess, said: Callable[[], str] = str) -> int:
    """Return the exit code of a process once it has ended; one that does not end is killed, and what it said shown."""
    process.join(PATIENCE_S)
    if process.exitcode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, 9)
        raise AssertionError(f"it does not end: {said()}")
    return process.exitcode


def group(rank: int, world: int, port: int) -> dict[str, str]:
    """Return the environment that makes a process one of several, as torchrun does."""
    values = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": port, "TORCH_CPP_LOG_LEVEL": "ERROR",
    }  # fmt: skip
    return {name: str(value) for name, value in values.items()}


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
