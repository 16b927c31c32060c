"""Show the progress of trainings: live on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from types import TracebackType

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import Progress, Task, TaskID
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from graphkd.engine.callback import Callback, EpochResult
from graphkd.report.markup import visible
from graphkd_cli.printing import console, print_line

SECONDS_BETWEEN_LINES = 10.0
OF_SEVERAL = 30.0
"""The same for a run that is one of several."""
LEAST_BAR = 3


class Pace:
    """The pace of one training. That of its teacher, or of a stage before it, would say nothing of it."""

    def __init__(self, done: float = 0.0) -> None:
        """Start, with this share of the training done already."""
        self._began, self._first = time.monotonic(), done

    def __call__(self, share: float) -> float:
        """Return the shares a second, now that this share is done."""
        return max(0.0, share - self._first) / max(1e-9, time.monotonic() - self._began)


class ProgressCallback(Callback):
    """Shows a bar with time left, accuracy and losses by term; without a terminal, a line now and then."""

    quiet = False

    def __init__(self, console: Console, runs: Runs | None = None) -> None:
        """Create a callback.

        Args:
            console: The console to print to.
            runs: The runs that this one belongs to, if it is one of several.
        """
        self._console = console
        self._runs = runs
        self._live = console.is_terminal and (runs is None or runs.live)
        self._progress = _Display(console, runs)
        self._task: TaskID | None = None
        self._name = ""
        self._epochs = 0
        self._last_line = 0.0

    def __enter__(self) -> ProgressCallback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live and self._task is not None:
            self._progress.stop()

    def note(self, message: str) -> None:
        """Print a line above the bar; the same line of several runs is printed once."""
        if self._runs is None or self._runs.is_new(message):
            print_line(self._console, message)

    def start(self, name: str, epochs: int, steps: int, done: int = 0) -> None:
        """Show a new bar; the display starts only now, since a process that trains nothing must show none."""
        self._name, self._epochs, self._last_line = name, epochs, time.monotonic()
        if self._task is not None:
            self._progress.remove_task(self._task)
        if self._runs is not None:
            self._runs.pace = Pace(done / (epochs * steps))
        first = f"epoch {done // steps + 1}/{epochs}"
        self._task = self._progress.add_task(name, total=epochs * steps, completed=done, epoch=first, figures=())
        if self._live:
            self._progress.start()
        if done:
            self.note(f"{name}: resuming in epoch {done // steps + 1}")

    def step(self) -> None:
        """Show one more step."""
        if self._live and self._task is not None:
            self._progress.advance(self._task)

    def epoch(self, epoch: EpochResult) -> None:
        """Show new figures."""
        is_last = epoch.epoch == self._epochs
        if self._live and self._task is not None:
            place = f"epoch {min(epoch.epoch + 1, self._epochs)}/{self._epochs}"
            self._progress.update(self._task, epoch=place, figures=figures(epoch))
            if is_last:  # other processes may show what comes next
                self._progress.stop()
        pause = SECONDS_BETWEEN_LINES if self._runs is None else OF_SEVERAL
        due = time.monotonic() - self._last_line >= pause or (is_last and self._runs is None)
        if not self._live and due:
            print_line(self._console, f"{self._name}: epoch {epoch.epoch}/{self._epochs} {' '.join(figures(epoch))}")
            self._last_line = time.monotonic()


class Runs:
    """Shows the progress of several runs: the start, messages and outcome of each."""

    def __init__(self, total: int | None, what: str = "run", live: bool = True) -> None:
        """Create a display; no run is done yet.

        Args:
            total: Number of runs; None if unknown.
            what: What a run is called.
            live: Whether they run in this process one after another, so that it may draw on the screen.
        """
        self.live = live
        self._console = console()
        self._total = total
        self._what = what
        self._done = 0
        self._said: set[str] = set()
        self.pace = Pace()
        self._began = 0.0
        self._trained: list[float] = []

    def watch(self) -> ProgressCallback:
        """Return the callback of a run that starts."""
        self._began = time.monotonic()
        return ProgressCallback(self._console, self)

    def finished(self, line: str, trained: bool = False) -> None:
        """Print the outcome of a run, and note whether it was trained just now."""
        if trained:
            self._trained.append(time.monotonic() - self._began)
        self._done += 1
        known = self._total is not None and self.live
        print_line(self._console, f"{line} [{self._what} {self._done} of {self._total}]" if known else line)

    def is_new(self, message: str) -> bool:
        """Return whether no run has sent this message before."""
        is_new = message not in self._said
        self._said.add(message)
        return is_new

    def line(self, share: float) -> str:
        """Return the overall progress in one line.

        Args:
            share: Finished share of the current training, from 0 to 1.
        """
        if self._total is None:
            return f"{self._what} {self._done + 1}"
        return f"{self._what} {self._done + 1} of {self._total}, {clock(self._left(share))} left for all"

    def _left(self, share: float) -> float | None:
        """Estimate the seconds left, at the pace of the runs so far; None before the first."""
        if self._trained:
            each = sum(self._trained) / len(self._trained)
            own = max(0.0, each - (time.monotonic() - self._began))
        else:
            pace = self.pace(share)
            if pace == 0:
                return None
            each, own = 1 / pace, (1 - share) / pace
        return own + each * ((self._total or 0) - self._done - 1)


class _Display(Progress):
    """Live display: overall progress, the training's name, and one line with its epoch, bar, time and metrics."""

    def __init__(self, console: Console, runs: Runs | None) -> None:
        self._runs = runs
        super().__init__(console=console, transient=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks:
            if self._runs is not None:
                yield Text(self._runs.line(task.completed / (task.total or 1)))
            yield Text(visible(task.description))
            yield self._line(task)

    def _line(self, task: Task) -> RenderableType:
        """Lay out a line that fits the screen: the bar is shortened, and the last metrics are left out."""
        epoch, left = task.fields["epoch"], f"{clock(task.time_remaining)} left"
        room = self.console.width - cell_len(epoch) - cell_len(left) - 2
        extent = min(room, self.console.width // 5)
        cells: list[RenderableType] = [Text(epoch), Text(left)]
        if extent >= LEAST_BAR:
            cells.insert(1, ProgressBar(total=task.total or 1, completed=task.completed, width=extent))
            room -= extent
        shown = ""
        for figure in task.fields["figures"]:
            if cell_len(shown) + 1 + cell_len(figure) > room:
                break
            shown += f" {figure}"
        line = Table.grid(padding=(0, 1))
        line.add_row(*cells, Text(shown.strip(" |")))
        return line


def clock(seconds: float | None) -> str:
    """Return seconds as hours, minutes and seconds; dashes for None."""
    return "-:--:--" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))


_RUNS: ContextVar[Runs | None] = ContextVar("runs", default=None)


@contextlib.contextmanager
def several() -> Iterator[None]:
    """Show the jobs of a launcher, if it runs them in this process, as one sequence of runs."""
    token = _RUNS.set(Runs(None))
    try:
        yield
    finally:
        _RUNS.reset(token)


def present_runs() -> Runs:
    """Return the runs of the current launcher job: those of `several`, or this process's own in another process."""
    runs = _RUNS.get()
    if runs is None:
        runs = Runs(None, live=False)
        _RUNS.set(runs)
    return runs


def figures(epoch: EpochResult) -> list[str]:
    """Return accuracies and losses by term of an epoch, each in a few words."""
    shown = {} if epoch.train_top1 is None else {"train": epoch.train_top1}
    for split, evaluation in (("val", epoch.val), ("test", epoch.test)):
        if evaluation is not None:
            shown[split] = evaluation.top1
    accuracies = [f"{name} {top1:.1f}" for name, top1 in shown.items()]
    terms = [f"{visible(name)} {loss['raw']:.3f}" for name, loss in epoch.terms.items()]
    return [*accuracies, *(["|"] if accuracies else []), *terms]
