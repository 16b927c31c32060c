"""Worker process of a suite: `python -m graphkd_cli.groups FOLDER` executes groups of runs until none is left.

The folder has a file for each run (`3.yaml`) and each group (`group-00000.json`). Processes take groups one by one.
They write the outcome of each run (`3.answer`), their progress (`*.status`) and messages for the user (`*.log`).
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphkd.engine.callback import Callback, EpochResult
from graphkd.errors import UserError, one_line
from graphkd.files import write_atomically
from graphkd_cli import worker
from graphkd_cli.main import guarded
from graphkd_cli.printing import result_line
from graphkd_cli.progress import Pace, figures

if TYPE_CHECKING:
    from graphkd.run import RunResult, RunSpec

MODULE = "graphkd_cli.groups"
BUSY = "another process is working on it"
LEAVE_BUSY = "--leave-busy"
_SECONDS_BETWEEN_WRITES = 0.5


def write_groups(groups: Sequence[Sequence[int]], folder: Path) -> None:
    """Write groups, which are executed in this order, and remove earlier ones."""
    for file in folder.glob("group-*"):
        file.unlink()
    for number, group in enumerate(groups):
        (folder / f"group-{number:05}.json").write_text(json.dumps(list(group)))


def run_groups(folder: Path, wait: bool) -> None:
    """Take groups that no other process has taken and execute them, until none is left."""
    for file in sorted(folder.glob("group-*.json")):
        try:
            file.with_suffix(".taken").touch(exist_ok=False)
        except FileExistsError:
            continue
        run_group(folder, json.loads(file.read_text()), wait)


def run_group(folder: Path, group: Sequence[int], wait: bool) -> None:
    """Execute runs together; errors go to the runs' answers and are not raised.

    Args:
        folder: The suite's launch folder.
        group: The numbers of the runs.
        wait: Whether to wait for runs that another process is working on.
    """
    from graphkd.run import read_spec, run_together

    status = _Status(folder, len(group))
    specs: dict[int, RunSpec] = {}
    for number in group:
        try:
            specs[number] = read_spec(folder / f"{number}.yaml")
        except UserError as error:
            status.end(number, f"run {number}", error)
    numbers = list(specs)
    names = {number: f"{spec.variant} seed {spec.seed}" for number, spec in specs.items()}

    def ended(at: int, outcome: RunResult | Exception) -> None:
        status.end(numbers[at], names[numbers[at]], outcome)

    try:
        if specs:
            callbacks = [_RunCallback(status, number) for number in numbers]
            run_together(list(specs.values()), callbacks, worker=worker.MODULE, wait=wait, ended=ended)
    except Exception as error:  # in something that all of them share
        for at, number in enumerate(numbers):
            if read_answer(folder, number) is None:
                ended(at, error)
    finally:
        status.close()


def read_answer(folder: Path, number: int) -> dict[str, Any] | None:
    """Return the outcome of a run: `error` (or None), a `line` for the user, and whether it `trained`."""
    try:
        answer: dict[str, Any] = json.loads((folder / f"{number}.answer").read_text())
    except FileNotFoundError:
        return None
    return answer


def write_answer(folder: Path, number: int, spec: RunSpec, error: str) -> None:
    """Write that a run failed before its start, or with its process."""
    _write_answer(folder, number, error, f"{spec.variant} seed {spec.seed}: failed: {error}", trained=False)


def _write_answer(folder: Path, number: int, error: str | None, line: str, trained: bool) -> None:
    answer = {"error": error, "line": line, "trained": trained, "time": time.time()}
    write_atomically(folder / f"{number}.answer", json.dumps(answer), durable=False)


class _Status:
    """Progress of this process, written to files for the display."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        process = f"{socket.gethostname()}-{os.getpid()}"
        self._path, self._log = folder / f"{process}.status", folder / f"{process}.log"
        self._shares: dict[int, float] = {}
        self._paces: dict[int, Pace] = {}
        self._written = 0.0

    def say(self, line: str) -> None:
        """Write a message for the user, in one line."""
        with self._log.open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(line.replace("\n", " ") + "\n")

    def start(self, number: int, share: float) -> None:
        """Start a training of a run, of which this share is done already."""
        self._shares[number], self._paces[number] = share, Pace(share)

    def update(self, number: int, share: float, text: str) -> None:
        """Set the finished share of a run, from 0 to 1, and the text about it."""
        self._shares[number] = share
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_WRITES:
            self._written = time.monotonic()
            together = f"{self._size} runs together; " if self._size > 1 else ""
            pace = sum(self._paces[run](done) for run, done in self._shares.items())
            document = {"text": together + text, "shares": self._shares, "pace": pace}
            write_atomically(self._path, json.dumps(document), durable=False)

    def end(self, number: int, name: str, outcome: RunResult | Exception) -> None:
        """Write the outcome of a run."""
        from graphkd.run.folder import BusyError

        self._shares.pop(number, None)
        if isinstance(outcome, BusyError):
            _write_answer(self._folder, number, BUSY, "", trained=False)
        elif isinstance(outcome, Exception):
            error = one_line(outcome)
            _write_answer(self._folder, number, error, f"{name}: failed: {error}", trained=False)
        else:
            _write_answer(self._folder, number, None, result_line(outcome), trained=not outcome.reused)

    def close(self) -> None:
        """Remove the status: this process is idle."""
        self._path.unlink(missing_ok=True)


class _RunCallback(Callback):
    """Passes the progress of one run to the status of its process."""

    def __init__(self, status: _Status, number: int) -> None:
        self._status, self._number = status, number
        self._training = ""
        self._epochs = self._steps = self._total = 0
        self._figures: list[str] = []

    def note(self, message: str) -> None:
        """See `Callback`."""
        self._status.say(message)

    def start(self, name: str, epochs: int, steps: int, done: int = 0) -> None:
        """See `Callback`."""
        self._training, self._epochs = name, epochs
        self._steps, self._total, self._figures = done, epochs * steps, []
        self._status.start(self._number, done / self._total)
        if done:
            self.note(f"{name}: resuming in epoch {done // steps + 1}")

    def step(self) -> None:
        """See `Callback`."""
        self._steps += 1
        epoch = min(self._epochs, self._steps * self._epochs // self._total + 1)
        text = f"{self._training}: epoch {epoch}/{self._epochs} {' '.join(self._figures)}".rstrip()
        self._status.update(self._number, self._steps / self._total, text)

    def epoch(self, epoch: EpochResult) -> None:
        """See `Callback`."""
        self._figures = figures(epoch)


def main(words: Sequence[str]) -> int:
    """Execute this process's part of a suite; return the exit code."""
    from graphkd.run import processes

    processes.follow_parent()
    run_groups(Path(words[0]), wait=LEAVE_BUSY not in words)
    return 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(guarded(lambda: main(arguments), debug=True))
