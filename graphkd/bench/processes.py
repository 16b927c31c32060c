"""A work that several processes do together."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist

from graphkd.bench.case import Work
from graphkd.bench.measurement import forkserver
from graphkd.engine.seeding import initialising

MEETING_TIME = timedelta(minutes=2)


class Together:
    """Processes joined by gloo that each do their part of a step when called; they end with this one."""

    def __init__(self, make: Callable[[], Work], count: int, seed: int) -> None:
        """Start processes of one thread each and wait until each has made its work; `make` must pickle."""
        context = forkserver()
        self._pipes: list[Connection] = []
        self._folder = tempfile.TemporaryDirectory(prefix="graphkd-")
        meeting = Path(self._folder.name, "meeting")
        for rank in range(count):
            ours, theirs = context.Pipe()
            context.Process(target=_work, args=(theirs, make, meeting, rank, count, seed), daemon=True).start()
            theirs.close()
            self._pipes.append(ours)
        self._wait()

    def __call__(self) -> None:
        """Take a step in all processes."""
        for pipe in self._pipes:
            pipe.send(None)
        self._wait()

    def _wait(self) -> None:
        for pipe in self._pipes:
            pipe.recv()


def _work(pipe: Connection, make: Callable[[], Work], meeting: Path, rank: int, count: int, seed: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting.as_uri(), timeout=MEETING_TIME, world_size=count, rank=rank)
    with initialising(seed, "bench"):
        work = make()
    pipe.send(None)
    try:
        while True:
            pipe.recv()
            work()
            pipe.send(None)
    except EOFError:
        return
