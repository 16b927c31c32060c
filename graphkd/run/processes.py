"""Processes of a run on several devices: one each, all with the same resolved config."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from graphkd.engine.environment import in_group, is_main_process, world_size
from graphkd.engine.interrupts import Interrupts
from graphkd.engine.trainer import Trainer
from graphkd.errors import UserError, check

T = TypeVar("T")
_BEGIN = """
import sys
sys.path = [*filter(None, sys.path), ""]
import runpy
runpy.run_module({!r}, run_name="__main__", alter_sys=True)
"""
"""Runs a module like `python -m`, but searches the current folder last, so that files there do not hide Python's own
modules."""
LAUNCHED = "--launched"
"""Marks a worker that `start` started."""
PATIENCE_S = 20.0
"""Seconds that the other processes have to exit once one of them has died."""
_KILL_AFTER_S = 10.0
"""Seconds that a process has to exit once it was told to."""
_POLL_S = 0.2
_OURS = "graphkd: "
_SIGNAL_OF = {130: signal.SIGINT, -signal.SIGINT: signal.SIGINT, 143: signal.SIGTERM, -signal.SIGTERM: signal.SIGTERM}


def joined() -> bool:
    """Return whether this process has joined the others of its group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def join(trainer: Trainer, node: str) -> None:
    """Join the process group, if this is one of several processes that were started together.

    Raises:
        UserError: As in `check_world_size`.
    """
    if in_group() and not joined():
        check_world_size(trainer, node)
        trainer.fabric().launch()


def check_world_size(trainer: Trainer, node: str) -> None:
    """Check that as many processes were started together as the trainer has devices.

    Raises:
        UserError: There are more or fewer; the message names the trainer's node of the config.
    """
    count = world_size()
    check(
        count in (1, trainer.processes),
        f"{node}: devices x nodes is {trainer.processes}, but {count} processes were started together",
    )


def needed(trainer: Trainer, worker: str | None) -> bool:
    """Return whether processes for the trainer's devices must still be started.

    Raises:
        UserError: The devices are on several machines, or `worker` is None.
    """
    several = trainer.processes > 1 and not in_group()
    start = "which torchrun or srun must start" + (f": -m {worker} CONFIG" if worker else "")
    check(not several or trainer.nodes == 1, f"trainer: nodes is {trainer.nodes}, {start}")
    check(not several or worker is not None, f"trainer: devices is {trainer.devices}, {start}")
    return several


def wait() -> None:
    """Wait for the other processes of the group."""
    if joined():
        dist.barrier()


def leave() -> None:
    """Leave the process group when all work is done; exiting without it may break the others' communication."""
    if joined():
        dist.barrier()
        dist.destroy_process_group()


def broadcast_object(look: Callable[[], T]) -> T:
    """Call `look` in the main process and return its result, or raise its error, in every process.

    Raises:
        UserError: Raised by `look`.
    """
    if not joined():
        return look()
    seen: list[T | Exception | None] = [None]
    if is_main_process():
        try:
            seen = [look()]
        except Exception as error:
            seen = [error]
    dist.broadcast_object_list(seen, 0)
    if isinstance(seen[0], Exception):
        raise seen[0]
    return seen[0]  # type: ignore[return-value]


def start(worker: str, config: Path, count: int, options: Sequence[str] = ()) -> None:
    """Run a config in several processes on this machine and wait for them.

    Ctrl-C and SIGTERM are passed on once; the processes then write a checkpoint and exit. A second one kills them.

    Args:
        worker: The module that each of them runs, as in `python -m`.
        config: A resolved config (`graphkd.run.folder.write_config`), in a folder that receives their stderr.
        count: Number of processes.
        options: Further arguments of each.

    Raises:
        UserError: They refused the config.
        RuntimeError: One of them died; the others are ended, and the last checkpoint is kept.
        KeyboardInterrupt: They were interrupted.
    """
    port = _free_port()
    logs = [config.with_name(f"rank-{number}.log") for number in range(count)]
    workers: list[subprocess.Popen[bytes]] = []
    with Interrupts() as interrupts:
        try:
            for number, log in enumerate(logs):
                words = [str(config), LAUNCHED, *options]
                workers.append(_start(worker, words, _ranks(number, count, port), log))
            failure = _wait(workers, interrupts)
        finally:
            _end(workers)
        if failure is not None:
            number, code = failure
            if code in _SIGNAL_OF:
                interrupts.pending = _SIGNAL_OF[code]
                interrupts.deliver()
                raise KeyboardInterrupt  # the handler belongs to another thread
            _blame(number, code, count, logs[number].read_text(errors="replace"))
    sys.stderr.write(logs[0].read_text(errors="replace"))


def share_work(worker: str, words: Sequence[str], count: int, folder: Path) -> list[int]:
    """Run a module in several processes that share its work, and wait for all of them.

    Ctrl-C and SIGTERM are passed on as in `start`. A process that dies does not end the others.

    Args:
        worker: The module, as in `python -m`.
        words: Its arguments.
        count: Number of processes.
        folder: Receives their stderr.

    Returns:
        Their exit codes.

    Raises:
        KeyboardInterrupt: They were interrupted.
    """
    workers: list[subprocess.Popen[bytes]] = []
    with Interrupts() as interrupts:
        try:
            for number in range(count):
                workers.append(_start(worker, words, {}, folder / f"process-{number}.err"))
            _wait(workers, interrupts, together=False)
        finally:
            _end(workers)
        if interrupts.pending is not None:
            interrupts.deliver()
            raise KeyboardInterrupt  # the handler belongs to another thread
    return [worker.returncode for worker in workers]


def follow_parent() -> None:
    """Terminate this process, with a checkpoint, once the process that started it is gone.

    `start` holds the other end of this process's standard input and never writes to it.
    """

    def follow() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_KILL_AFTER_S)
        os._exit(143)  # it is stuck waiting for another process and handles no signal

    threading.Thread(target=follow, daemon=True).start()


def _ranks(number: int, count: int, port: int) -> dict[str, str]:
    """Return the environment from which a process knows the others of its run."""
    group = {
        "RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count,
        "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": port,
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),  # advice on DDP, from every rank
    }  # fmt: skip
    return {name: str(value) for name, value in group.items()}


def _start(worker: str, words: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _BEGIN.format(worker), *words]
    with log.open("wb") as errors:
        # In its own session, so that the terminal's Ctrl-C reaches it only once, through us.
        return subprocess.Popen(
            command, env={**os.environ, **environment}, stdin=subprocess.PIPE, stderr=errors, start_new_session=True
        )


def _wait(
    workers: Sequence[subprocess.Popen[bytes]], interrupts: Interrupts, together: bool = True
) -> tuple[int, int] | None:
    """Wait until all have exited or, if they work together, one has died and the others had time to notice.

    Returns:
        Rank and exit code of the first one that failed; the others usually fail because of it.
    """
    failure: tuple[int, int] | None = None
    deadline = float("inf")
    told = False
    while time.monotonic() < deadline:
        codes = [worker.poll() for worker in workers]
        if failure is None:
            failure = _failure(codes)
            if together and failure is not None and failure[1] not in _SIGNAL_OF:
                deadline = time.monotonic() + PATIENCE_S
        if None not in codes:
            break
        if interrupts.pending is not None and not told:
            told = True
            for worker in workers:
                worker.send_signal(interrupts.pending)
        time.sleep(_POLL_S)
    return failure


def _failure(codes: Sequence[int | None]) -> tuple[int, int] | None:
    """Return rank and exit code of the process to blame; those that merely lost it exit with 1."""
    failed = [(code == 1, number, code) for number, code in enumerate(codes) if code]
    return min(failed)[1:] if failed else None


def _blame(number: int, code: int, count: int, log: str) -> None:
    """Raise the error of a process, taken from the last line of its log."""
    said = next((line[len(_OURS) :] for line in reversed(log.splitlines()) if line.startswith(_OURS)), "")
    if code == 2 and said:
        raise UserError(said)
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    why = f": {said.removesuffix(' (--debug shows where)')}" if code > 0 and said else ""
    message = f"rank {number} of {count} died ({how}){why}; the last checkpoint is kept"
    raise RuntimeError(message) from (RuntimeError(f"rank {number} wrote\n{log}") if log else None)


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    deadline = time.monotonic() + _KILL_AFTER_S
    for worker in workers:
        with worker:  # closes its standard input
            try:
                worker.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
