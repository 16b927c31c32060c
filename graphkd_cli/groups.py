"""Groups of runs in the processes of a suite: `python -m graphkd_cli.groups FOLDER` does what is left of them.

A folder holds a file for each run (`3.yaml`) and each group (`group-0.json`). Processes take groups one by one. They
leave what came of each run (`3.answer`), what they are at (`*.status`), and what they have to say (`*.log`).
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
from graphkd_cli.progress import figures
from graphkd_cli.show import result_line

if TYPE_CHECKING:
    from graphkd.run import RunResult, RunSpec

MODULE = "graphkd_cli.groups"
BUSY = "another process is at it"
LEAVE_BUSY = "--leave-busy"
_SECONDS_BETWEEN_WRITES = 0.5


def write_groups(groups: Sequence[Sequence[int]], folder: Path) -> None:
    """Write groups, which are done in this order, in place of earlier ones."""
    for file in folder.glob("group-*"):
        file.unlink()
    for number, group in enumerate(groups):
        (folder / f"group-{number:05}.json").write_text(json.dumps(list(group)))


def run_groups(folder: Path, wait: bool) -> None:
    """Take groups that nobody else has taken and do them, until none is left."""
    for file in sorted(folder.glob("group-*.json")):
        try:
            file.with_suffix(".taken").touch(exist_ok=False)
        except FileExistsError:
            continue
        run_group(folder, json.loads(file.read_text()), wait)


def run_group(folder: Path, group: Sequence[int], wait: bool) -> None:
    """Do runs together; what fails is told in its answer, not raised.

    Args:
        folder: Has a file for each run.
        group: The numbers of the runs.
        wait: Whether to wait for runs that another process is at.
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
    except Exception as error:  # of what all of them share
        for at, number in enumerate(numbers):
            if read_answer(folder, number) is None:
                ended(at, error)
    finally:
        status.close()


def read_answer(folder: Path, number: int) -> dict[str, Any] | None:
    """Return what came of a run: `error` (None for none), a `line` for the user, and whether it `trained`."""
    try:
        answer: dict[str, Any] = json.loads((folder / f"{number}.answer").read_text())
    except FileNotFoundError:
        return None
    return answer


def write_answer(folder: Path, number: int, spec: RunSpec, error: str) -> None:
    """Leave that a run failed without having been begun, or with its process."""
    _write_answer(folder, number, error, f"{spec.variant} seed {spec.seed}: failed: {error}", trained=False)


def _write_answer(folder: Path, number: int, error: str | None, line: str, trained: bool) -> None:
    answer = {"error": error, "line": line, "trained": trained}
    write_atomically(folder / f"{number}.answer", json.dumps(answer), durable=False)


class _Status:
    """What this process is at, in files for whoever shows it."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        process = f"{socket.gethostname()}-{os.getpid()}"
        self._path, self._log = folder / f"{process}.status", folder / f"{process}.log"
        self._shares: dict[int, float] = {}
        self._text = ""
        self._written = 0.0

    def say(self, line: str) -> None:
        """Tell the user something in one line."""
        with self._log.open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(line.replace("\n", " ") + "\n")

    def update(self, number: int, share: float, text: str = "") -> None:
        """Note how much of a run is done, from 0 to 1, and what it is at."""
        self._shares[number] = share
        if text:
            together = f"{self._size} runs together; " if self._size > 1 else ""
            self._text = together + text
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_WRITES:
            self._written = time.monotonic()
            document = {"text": self._text, "shares": self._shares}
            write_atomically(self._path, json.dumps(document), durable=False)

    def end(self, number: int, name: str, outcome: RunResult | Exception) -> None:
        """Leave what came of a run."""
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
        """Say that this process is at nothing any more."""
        self._path.unlink(missing_ok=True)


class _RunCallback(Callback):
    """Tells a process's status of one run."""

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
        if done:
            self.note(f"{name}: going on in epoch {done // steps + 1}")

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
    """Do a process's part of a suite; return the exit code."""
    from graphkd.run import processes

    processes.follow_parent()
    run_groups(Path(words[0]), wait=LEAVE_BUSY not in words)
    return 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(guarded(lambda: main(arguments), debug=True))
