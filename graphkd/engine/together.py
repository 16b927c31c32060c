"""Several training loops on one stream of batches and teacher outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch

from graphkd.engine.callback import History
from graphkd.engine.convolutions import sound_convolutions
from graphkd.engine.feed import Fed, Feed, Request
from graphkd.engine.interrupts import Interrupts
from graphkd.engine.loop import TrainingLoop
from graphkd.engine.matmul import matmul_precision
from graphkd.engine.threads import torch_threads

Ended = Callable[[TrainingLoop, History | Exception], None]
"""Receives a loop that ended, and its history or its error."""


class LoopInterrupted(KeyboardInterrupt):
    """A loop stopped, with a checkpoint, because the user asked to; the others stop next."""


def train_together(loops: Sequence[TrainingLoop], feed: Feed, ended: Ended) -> None:
    """Train loops to their ends; each gives the same result as alone.

    Nothing of a loop depends on the others: torch's generators are seeded before each step from seed and step, the
    objective has generators of its own, a batch depends on the seed and its place alone, and the teacher is frozen.

    The loop that is furthest behind goes first, so that loops at the same position are served together. A loop that
    fails does not stop the others. Ctrl-C and SIGTERM take effect once every loop has written a checkpoint.

    Args:
        loops: Training loops that share the feed's data, seed, batch size and teacher.
        feed: The source of their batches.
        ended: Called when a loop has ended or failed.
    """
    gpus = [feed.device] if feed.device.type == "cuda" else []
    with (
        torch_threads(feed.options.threads), matmul_precision(feed.options.matmul_precision),
        torch.random.fork_rng(gpus), Interrupts() as interrupts,
    ):  # fmt: skip
        running = [_Member(loop, several=len(loops) > 1) for loop in loops]

        def leave(loop: TrainingLoop) -> None:
            pending = loop.ranks.all_reduce_max(interrupts.pending or 0)
            if pending:
                if loop.checkpoints is not None:
                    loop.callback.note("stopping: the state is saved first (Ctrl-C again stops at once)")
                loop.save()
                interrupts.hold(pending)
                if len(running) > 1:
                    raise LoopInterrupted
                interrupts.deliver()

        for loop in loops:
            loop.leave = partial(leave, loop)
        try:
            while running:
                _advance(min(running, key=lambda each: each.place), feed, running, ended)
        finally:
            feed.close()
            for loop in loops:
                loop.leave = lambda: None  # so that nothing keeps its networks alive


def _advance(member: _Member, feed: Feed, running: list[_Member], ended: Ended) -> None:
    """Let a loop take a step; at its end, take it out of those that run."""
    outcome: History | Exception | None
    try:
        outcome = member.advance(feed, running)
    except LoopInterrupted:
        running.remove(member)
        return
    except Exception as error:
        outcome = error
    if outcome is not None:
        running.remove(member)
        ended(member.loop, outcome)


class _Member:
    """A loop in training, with its current request and its CUDA stream."""

    def __init__(self, loop: TrainingLoop, several: bool) -> None:
        self.loop = loop
        self.request: Request | None = None
        self._running: Generator[Request, Fed, History] = loop.run()
        # With a stream for each loop, the small kernels of the students overlap.
        self._stream = torch.cuda.Stream(loop.device) if several and loop.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        turned = loop.options.channels_last or loop.options.compile
        self._modules = (loop.student, loop.objective) if turned else ()

    @property
    def place(self) -> tuple[bool, str, int, int] | tuple[()]:
        """Position of the requested batch; before all others at the start."""
        return () if self.request is None else self.request.place

    def advance(self, feed: Feed, running: Sequence[_Member]) -> History | None:
        """Take a step with the requested batch, up to the next request; return the history at the end."""
        fed = None
        if self.request is not None:
            if not feed.holds(self.request):
                for member in running:
                    member.wait()
            fed = feed.get(self.request, [member.request for member in running if member.request is not None])
        with sound_convolutions(*self._modules), self._on_stream():
            try:
                self.request = next(self._running) if fed is None else self._running.send(fed)
            except StopIteration as end:
                history: History = end.value
                return history
        return None

    def wait(self) -> None:
        """Make the main stream, which computes the next batch, wait for this loop: it may still read the last one."""
        if self._stream is not None:
            torch.cuda.current_stream(self.loop.device).wait_stream(self._stream)

    def _on_stream(self) -> AbstractContextManager[object]:
        if self._stream is None:
            return contextlib.nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream(self.loop.device))
        return torch.cuda.stream(self._stream)
