"""A run on several devices: one process for each, all of them of one resolved config."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

import torch.distributed as dist

from graphkd.errors import UserError

T = TypeVar("T")
WORKER = "graphkd_cli.worker"
PATIENCE_S = 20.0
"""How long processes may take to leave once one of them has."""
_POLL_S = 0.2


def in_group() -> bool:
    """Whether this process is one of several that torchrun, Slurm or `start` began together."""
    return int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))) > 1


def rank() -> int:
    """This process's number among them."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def leads() -> bool:
    """Whether this process is the one that writes."""
    return not in_group() or rank() == 0


def wait() -> None:
    """Waits for the other processes of the group."""
    if in_group():
        dist.barrier()


def agreed(look: Callable[[], T]) -> T:
    """What the leading process sees; the others learn it from there."""
    if not in_group():
        return look()
    seen = [look() if leads() else None]
    dist.broadcast_object_list(seen, 0)
    return cast(T, seen[0])


def start(config: Path, processes: int, options: Sequence[str] = ()) -> None:
    """Runs a config in several processes on this machine and waits for them.

    Args:
        config: A resolved config (`graphkd.run_folder.write_config`).
        processes: How many.
        options: Further words for each of them.

    Raises:
        UserError: They refused the config; they said why.
        RuntimeError: One of them died; the others are ended then, and the last checkpoint is kept.
        KeyboardInterrupt: They were interrupted.
    """
    port = _free_port()
    workers = [_start([str(config), *options], number, processes, port) for number in range(processes)]
    try:
        codes = _wait(workers)
    finally:
        _end(workers)
    if 2 in codes:
        raise UserError("the run was refused (see above)")
    if any(code in (130, -signal.SIGINT) for code in codes):
        raise KeyboardInterrupt
    if any(code in (143, -signal.SIGTERM) for code in codes) and 1 not in codes:
        signal.raise_signal(signal.SIGTERM)
    dead = {number: code for number, code in enumerate(codes) if code != 0}
    if dead:
        number, code = next(iter(dead.items()))
        raise RuntimeError(f"rank {number} of {processes} died (exit code {code}); the last checkpoint is kept")


def _start(words: Sequence[str], number: int, processes: int, port: int) -> subprocess.Popen[bytes]:
    group = {
        "RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
        "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": port,
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),  # advice on DDP, from every rank
    }  # fmt: skip
    environment = {**os.environ, **{name: str(value) for name, value in group.items()}}
    return subprocess.Popen([sys.executable, "-m", WORKER, *words], env=environment)


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Waits until all are done, or one has failed and the others had time to notice; the exit codes by rank.

    Whoever left by itself is first in the blame: the others mostly fail because of it.
    """
    deadline = None
    first: dict[int, int] = {}
    while True:
        codes = [worker.poll() for worker in workers]
        for number, code in enumerate(codes):
            if code is not None and code != 0 and not first:
                first[number] = code
        if all(code is not None for code in codes) or (deadline is not None and time.monotonic() > deadline):
            break
        if first and deadline is None:
            deadline = time.monotonic() + PATIENCE_S
        time.sleep(_POLL_S)
    _end(workers)
    ended = [worker.wait() for worker in workers]
    return [first.get(number, 0) for number in range(len(workers))] if first else ended


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    for worker in workers:
        try:
            worker.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
