"""Shows how a training goes: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from graphkd.engine.watching import Epoch, Watcher

SECONDS_BETWEEN_LINES = 10.0


class ProgressWatcher(Watcher):
    """A bar with the time left, losses by term and accuracy; without a terminal, a line now and then."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        """A watcher that writes to a console.

        Args:
            console: Where to.
            quiet: Show notes only (suites and sweeps print a line a run themselves).
        """
        self._console = console
        self._quiet = quiet
        self._live = console.is_terminal and not quiet
        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("left"),
            TimeRemainingColumn(), TextColumn("{task.fields[figures]}", markup=False), console=console, transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None
        self._name = ""
        self._epochs = 0
        self._last_line = 0.0

    def __enter__(self) -> ProgressWatcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live and self._task is not None:
            self._progress.stop()

    def note(self, message: str) -> None:
        """A line of its own, above the bar."""
        if not self._quiet:
            self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def start(self, name: str, epochs: int, steps: int, done: int = 0) -> None:
        """A new bar; only now does the display begin, for a process that trains nothing itself must show none."""
        self._name, self._epochs, self._last_line = name, epochs, time.monotonic()
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=epochs * steps, completed=done, figures="")
        if self._live:
            self._progress.start()
        if done:
            self.note(f"{name}: going on in epoch {done // steps + 1}")

    def step(self) -> None:
        """One step further."""
        if self._live and self._task is not None:
            self._progress.advance(self._task)

    def epoch(self, epoch: Epoch) -> None:
        """New figures."""
        if self._live and self._task is not None:
            self._progress.update(self._task, figures=figures(epoch))
        due = time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or epoch.epoch == self._epochs
        if not self._live and not self._quiet and due:
            self.note(f"{self._name}: epoch {epoch.epoch}/{self._epochs} {figures(epoch)}")
            self._last_line = time.monotonic()


def figures(epoch: Epoch) -> str:
    """Losses by term and accuracies of an epoch in a few words."""
    terms = " ".join(f"{name} {loss['raw']:.3f}" for name, loss in epoch.terms.items())
    shown = {} if epoch.train_top1 is None else {"train": epoch.train_top1}
    for split, evaluation in (("val", epoch.val), ("test", epoch.test)):
        if evaluation is not None:
            shown[split] = evaluation.top1
    accuracies = " ".join(f"{name} {top1:.1f}" for name, top1 in shown.items())
    return f"{terms} | {accuracies}" if accuracies else terms
