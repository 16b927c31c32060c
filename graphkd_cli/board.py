"""One display for all processes of a suite: finished runs, time left, and what each process is doing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from graphkd.report.markup import visible
from graphkd_cli.groups import read_answer
from graphkd_cli.printing import print_line
from graphkd_cli.progress import OF_SEVERAL, clock

_SECONDS_BETWEEN_LOOKS = 0.25


class Board:
    """Shows the progress files of a suite's processes: new lines, and on a terminal a live display."""

    def __init__(
        self, console: Console, folder: Path, numbers: Sequence[int], what: str, apart: Mapping[int, str] | None = None
    ) -> None:
        """Create a display.

        Args:
            console: The console to print to.
            folder: The suite's launch folder (`graphkd_cli.groups`).
            numbers: The runs to wait for.
            what: What a run is called.
            apart: What tells runs of one name apart, by number.
        """
        self._console, self._folder, self._what = console, folder, what
        self._apart = apart or {}
        self._waiting, self._total = list(numbers), len(numbers)
        self._trained = 0
        self._said: set[str] = set()
        self._read: dict[Path, int] = {}
        self._began = self._told = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._live = Live(console=console, get_renderable=self._render, transient=True) if console.is_terminal else None

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._ended.set()
            self._thread.join()
            self._look()
        finally:
            if self._live is not None:
                self._live.stop()

    def _follow(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS):
            self._look()
            if self._live is None and time.monotonic() - self._told >= OF_SEVERAL:
                self._told = time.monotonic()
                for line in (self._overall(), *(status["text"] for status in self._statuses())):
                    print_line(self._console, line)

    def _look(self) -> None:
        """Print new lines and outcomes."""
        for log in sorted(self._folder.glob("*.log")):
            with log.open(encoding="utf-8") as lines:
                lines.seek(self._read.get(log, 0))
                for line in lines:
                    if line not in self._said:
                        self._said.add(line)
                        print_line(self._console, line.rstrip("\n"))
                self._read[log] = lines.tell()
        answers = {number: answer for number in self._waiting if (answer := read_answer(self._folder, number))}
        for number, answer in sorted(answers.items(), key=lambda item: item[1]["time"]):
            if answer["line"]:
                self._waiting.remove(number)
                self._trained += answer["trained"]
                done = f"[{self._what} {self._total - len(self._waiting)} of {self._total}]"
                name = f"{self._apart[number]}: " if number in self._apart else ""
                print_line(self._console, f"{name}{answer['line']} {done}")

    def _statuses(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self._folder.glob("*.status")):
            try:
                yield json.loads(path.read_text())
            except FileNotFoundError:  # the process has just ended
                continue

    def _overall(self) -> str:
        statuses = list(self._statuses())
        begun = sum(share for status in statuses for share in status["shares"].values())
        pace = sum(status["pace"] for status in statuses)
        if self._trained:
            pace = (self._trained + begun) / (time.monotonic() - self._began)
        left = None if pace == 0 else max(0.0, len(self._waiting) - begun) / pace
        done = f"{self._what} {self._total - len(self._waiting)} of {self._total} done"
        return f"{done}, {clock(left)} left"

    def _render(self) -> RenderableType:
        lines = [self._overall(), *(f"  {status['text']}" for status in self._statuses())]
        return Group(*(Text(visible(line), no_wrap=True, overflow="ellipsis") for line in lines))
