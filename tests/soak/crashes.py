"""Real `graphkd` processes that are killed, and what is left of their runs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import forked

DIFFERENT = {"seconds", "duration_s", "seconds_per_step", "peak_memory_mib", "phases", "code", "group_size"}
"""What two equal runs may differ in: times, with how many they trained, and the commit of a checkout at work."""
KILLED = -signal.SIGKILL
_CHECKPOINT = re.compile(r"checkpoint-(\d+)\.pt")

Until = Callable[[], bool]


def _graphkd(words: Sequence[str]) -> None:
    """A `graphkd` process."""
    if any("launcher=" in word for word in words):  # joblib ends its processes where only a whole Python comes by
        os.execv(sys.executable, [sys.executable, "-m", "graphkd_cli.main", *words])
    forked.command(words)


class Command:
    """A `graphkd` process at work."""

    def __init__(self, words: Sequence[str], folder: Path, output: Path) -> None:
        """Starts it."""
        self._output = output
        self._process = forked.start(_graphkd, [list(words)], folder, output, output)

    @property
    def pid(self) -> int:
        """Its number, which is its group's too."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it is still there."""
        return self._process.is_alive()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text() if self._output.exists() else ""

    def wait(self) -> int:
        """Waits for its end; the exit code."""
        return forked.wait(self._process, lambda: self.output[-2000:])

    def wait_for(self, condition: Until) -> bool:
        """Looks every half millisecond; whether the condition came true before the process ended."""
        deadline = time.monotonic() + forked.PATIENCE_S
        while self.alive:
            if condition():
                return True
            assert time.monotonic() < deadline, f"waits in vain: {self.output[-2000:]}"
            time.sleep(0.0005)
        return False

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal sends it: to the whole group."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> bool:
        """Ends it as a power cut would; whether it had not ended before."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self.wait() == KILLED


class Machine:
    """Runs commands in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started = 0

    def start(self, words: Sequence[str]) -> Command:
        """Starts `graphkd WORD ...`."""
        self._started += 1
        return Command(words, self.folder, self.folder / f"output-{self._started}.txt")

    def finish(self, words: Sequence[str]) -> str:
        """Runs `graphkd WORD ...` to its end, which must be good; what it printed."""
        command = self.start(words)
        assert command.wait() == 0, command.output[-2000:]
        return command.output


def moments(chance: random.Random, folder: Path, steps: int, seconds: float, kills: int) -> list[Callable[[], Until]]:
    """Moments to kill a run at: any time, after any step, and within the writing of a checkpoint.

    Args:
        chance: Source of the moments.
        folder: The run's.
        steps: How many it has.
        seconds: How long the command takes.
        kills: How many moments; they are near enough that the run does not end before.
    """
    near = max(1, steps // (kills + 1))

    def any_time() -> Until:
        until = time.monotonic() + chance.uniform(0.0, 0.6 * seconds)
        return lambda: time.monotonic() > until

    def after_a_step() -> Until:
        number = latest(folder) + chance.randint(1, near)
        return lambda: latest(folder) >= number

    def within_writing() -> Until:
        number = latest(folder) + chance.randrange(near)
        return lambda: latest(folder) >= number and any(".tmp" in name for name in names(folder))

    first = chance.randrange(3)
    return [(within_writing, after_a_step, any_time)[(first + kill) % 3] for kill in range(kills)]


def names(folder: Path) -> list[str]:
    """What a folder holds, which may not be there."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def latest(folder: Path) -> int:
    """The number of the latest checkpoint; -1 where there is none."""
    return max((int(match[1]) for match in map(_CHECKPOINT.fullmatch, names(folder)) if match), default=-1)


def without_times(value: Any) -> Any:
    """JSON without what two equal runs differ in."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in DIFFERENT}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def left_by(results: Path) -> dict[str, Any]:
    """Every run's files below a folder by their paths, comparable: weights as bytes, records and metrics timeless."""
    return {str(path.relative_to(results)): _content(path) for path in sorted(results.rglob("seed-*/*"))}


def _content(path: Path) -> Any:
    if path.name == "record.json":
        return without_times(json.loads(path.read_text()))
    if path.name == "metrics.jsonl":
        return [without_times(json.loads(line)) for line in path.read_text().splitlines()]
    if path.name == "config.yaml":
        return [line for line in path.read_text().splitlines() if not line.startswith(("results:", "force:"))]
    return path.read_bytes()


def descendants(pid: int) -> dict[int, str]:
    """The command lines of all processes below one, by their numbers."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: dict[int, str] = {}
    pending = [pid]
    while pending:
        above = pending.pop()
        for child in [number for number, parent in parents.items() if parent == above]:
            pending.append(child)
            with contextlib.suppress(OSError):
                found[child] = (Path("/proc") / str(child) / "cmdline").read_text().replace("\0", " ")
    return found
