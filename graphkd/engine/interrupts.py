"""Delays Ctrl-C, SIGTERM and the loss of the terminal until a training has written a checkpoint."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ECHO_S = 5.0
"""A scheduler signals all processes of a job, and their parent passes it on: within this time that is one request."""


class Interrupts:
    """Context that holds back the first such signal as `pending`; a second one, unless it is an echo, acts at once.

    In the end the signal goes to the previous handler. Outside the main thread the context does nothing.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            # leave signals alone that nohup or a background shell job ignores
            heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._hold) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        if self.pending is not None and error is None:
            self.deliver()

    def deliver(self) -> None:
        """Pass the pending signal to its previous handler, which usually raises."""
        self._restore()
        number, self.pending = self.pending, None
        if number is not None:
            signal.raise_signal(number)

    def hold(self, number: int) -> None:
        """Hold a signal back, as if it had come."""
        self.pending, self._since = number, time.monotonic()

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if number == self.pending != signal.SIGINT and time.monotonic() - self._since < _ECHO_S:
            return
        impatient = self.pending is not None
        self.hold(number)
        if impatient:
            self.deliver()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
