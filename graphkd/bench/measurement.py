"""Measures cases: the time of all sides in turn, and the memory of each in a process of its own."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext

import torch

from graphkd.bench.case import Case, Settings, Sides, Work
from graphkd.engine import memory
from graphkd.engine.seeding import initialising
from graphkd.engine.threads import torch_threads

BASELINE = "baseline"
SHORTEST_S = 0.02
SHORTEST_SHARE = 0.1
"""What is timed at once should take no less, nor a smaller share of the slowest side; a faster step is repeated."""
LONG_S = 0.5
"""From here on what a first step takes longer hardly counts."""


@dataclass(frozen=True)
class Effort:
    """Seconds for the rounds of a case, their least and most number, and whether memory is measured wherever it can."""

    seconds: float
    least: int
    most: int
    full: bool


QUICK = Effort(seconds=5.0, least=2, most=9, full=False)
FULL = Effort(seconds=30.0, least=5, most=25, full=True)


@dataclass(frozen=True)
class Row:
    """One of graphkd's ways beside the baseline.

    Attributes:
        part: Part of the benchmark.
        case: What was measured.
        baseline_ms, graphkd_ms: Median time of a step in milliseconds; None where there is no baseline.
        ratio: How many times faster graphkd is: baseline_ms / graphkd_ms.
        ratio_min, ratio_max: The smallest and the largest ratio within a round.
        baseline_mib: By how much the first step raises the peak of memory in MiB; None where that was not measured.
        graphkd_mib: Likewise.
        rounds: How many rounds the medians are over.
        note: What a reader must know.
    """

    part: str
    case: str
    baseline_ms: float | None
    graphkd_ms: float
    ratio: float | None
    ratio_min: float | None
    ratio_max: float | None
    baseline_mib: float | None
    graphkd_mib: float | None
    rounds: int
    note: str


def measure(case: Case, settings: Settings, effort: Effort) -> list[Row]:
    """Return the rows of a case, measured with the settings that it was made with."""
    with torch_threads(settings.threads), initialising(settings.seed, "bench"):
        sides = case.make()
        seconds = in_turn(_works(sides), torch.device(settings.device), effort)
    note = case.note if sides.remark is None else "; ".join([case.note, sides.remark()])
    wanted = case.memory == "always" or (case.memory == "full" and effort.full)
    growth = {name: memory_growth(case, settings, name) if wanted else None for name in seconds}
    medians = {name: 1e3 * statistics.median(rounds) / case.steps for name, rounds in seconds.items()}
    baseline_ms = medians.get(BASELINE)
    rows = []
    for name in sides.ours:
        ratios = [theirs / mine for theirs, mine in zip(seconds.get(BASELINE, ()), seconds[name], strict=False)]
        row = Row(
            case.part, name, baseline_ms, medians[name],
            ratio=None if baseline_ms is None else baseline_ms / medians[name],
            ratio_min=min(ratios, default=None),
            ratio_max=max(ratios, default=None),
            baseline_mib=growth.get(BASELINE),
            graphkd_mib=growth[name],
            rounds=len(seconds[name]),
            note=note,
        )  # fmt: skip
        rows.append(row)
    return rows


def in_turn(works: Mapping[str, Work], device: torch.device, effort: Effort) -> dict[str, list[float]]:
    """Return the seconds that a call of each work takes, by round; in every round each has its turn."""
    taken = {name: _first_step(work, device) for name, work in works.items()}
    shortest = max(SHORTEST_S, SHORTEST_SHARE * max(taken.values()))
    steps = {name: math.ceil(shortest / seconds) for name, seconds in taken.items()}
    round_s = sum(steps[name] * taken[name] for name in works)
    rounds = min(max(int(effort.seconds / round_s), effort.least), effort.most)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(_seconds_per_step(work, steps[name], device))
    return seconds


def memory_growth(case: Case, settings: Settings, name: str) -> float | None:
    """Return by how many MiB a first step of a case's side raises the peak of memory, in a fresh process.

    None where there was too little memory, or the process died.
    """
    with ProcessPoolExecutor(1, mp_context=forkserver()) as process:
        try:
            return process.submit(_growth, case, settings, name).result()
        except (RuntimeError, MemoryError):  # a process that died raises the first, as torch does without memory
            return None


def forkserver() -> ForkServerContext:
    """Start processes that have everything imported."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["graphkd.bench.preload"])
    return server


def _growth(case: Case, settings: Settings, name: str) -> float:
    torch.set_num_threads(settings.threads)
    device = torch.device(settings.device)
    _wake(device)
    before = _level(device)
    work = _works(case.make())[name]
    if not case.held:
        before = _level(device)
    work()
    return memory.peak_mib(device) - before


def _level(device: torch.device) -> float:
    """Return what is held now in MiB; the peak is measured from here on."""
    _give_back_freed_memory()
    memory.reset_peak(device)
    return memory.peak_mib(device)


def _works(sides: Sides) -> dict[str, Work]:
    return ({} if sides.baseline is None else {BASELINE: sides.baseline}) | dict(sides.ours)


def _first_step(work: Work, device: torch.device) -> float:
    """Warm a work up and return how long a step takes."""
    first = _seconds_per_step(work, 1, device)
    return first if first > LONG_S else _seconds_per_step(work, 1, device)


def _seconds_per_step(work: Work, steps: int, device: torch.device) -> float:
    _finish(device)
    started = time.perf_counter()
    for _ in range(steps):
        work()
    _finish(device)
    return (time.perf_counter() - started) / steps


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _wake(device: torch.device) -> None:
    """Start what torch starts with its first step: threads, workspaces."""
    x = torch.ones(256, 256, device=device, requires_grad=True)
    torch.autograd.backward((x @ x).exp().sum())
    _finish(device)


def _give_back_freed_memory() -> None:
    """Give freed memory back, else the step would use what still counts as held (glibc; elsewhere nothing happens)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
