"""Where the time of a training goes, without waiting for the device."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import torch


class Span:
    """Measures what happens within it: the host's time, and on CUDA the device's, between two of its events."""

    def __init__(self, device: torch.device) -> None:
        self.host = 0.0
        self._cuda = device.type == "cuda"

    def __enter__(self) -> Span:
        if self._cuda:
            self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            self._start.record()
        self.host = -time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.host += time.perf_counter()
        if self._cuda:
            self._end.record()

    def seconds(self) -> float:
        """Return the time on the device; CUDA must have come to its end."""
        return self._start.elapsed_time(self._end) / 1000 if self._cuda else self.host


class Clock:
    """Sum the time of named sections on the training device."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device
        self._open: list[tuple[str, Span, float]] = []

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Count what happens within it under a name."""
        with Span(self._device) as span:
            yield
        self.add(name, span)

    def add(self, name: str, span: Span, share: float = 1.0) -> None:
        """Count a share of a span, which may have served others too, under a name."""
        self._open.append((name, span, share))
        if self._device.type == "cpu":
            self._close()

    def read(self) -> dict[str, float]:
        """Return the seconds by section so far; wait for the device."""
        if self._open:
            torch.cuda.synchronize(self._device)
            self._close()
        return dict(self.seconds)

    def _close(self) -> None:
        for name, span, share in self._open:
            self.seconds[name] += share * span.seconds()
        self._open.clear()
