"""Cases of how the HKD objective's memory and time grow."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from graphkd.bench.case import Case, Settings, Sides
from graphkd.bench.plan import Plan
from graphkd.bench.processes import Together
from graphkd.bench.training import objective_step
from graphkd.contrast.options import BankOptions

FULL = BankOptions()
HALF = BankOptions(dtype="bfloat16")
LABEL = 8
"""Bytes of a label of the data set, int64."""


def scale_cases(settings: Settings) -> list[Case]:
    """Return larger N, K and B, banks of half the precision, a queue, and shared banks; memory held counts too."""
    large = replace(settings, samples=settings.larger_samples)
    queue = BankOptions(kind="queue", length=4 * settings.negatives)
    cases = [
        _case(settings, FULL),
        _case(replace(settings, batch=settings.larger_batch), FULL),
        _case(large, FULL),
        _case(replace(large, negatives=settings.larger_negatives), FULL),
        _case(large, HALF),
        _case(replace(settings, samples=settings.largest_samples), HALF),
        _case(replace(settings, samples=settings.huge_samples), queue),
    ]
    return cases if settings.device == "cuda" else [*cases, *(_shared_case(size) for size in (settings, large))]


def scale(settings: Settings, bank: BankOptions) -> Sides:
    """Return the loss forward and backward and the update of the banks, without a baseline."""
    return Sides(None, {_name(settings, bank): objective_step(settings, bank)})


def shared(settings: Settings, processes: int) -> Sides:
    """Return banks shared by processes of one thread each, against one process with as many threads."""
    step = partial(objective_step, settings, BankOptions(sharded=True))
    name = f"N={settings.samples:,}, B={settings.batch:,}, K={settings.negatives:,}, float32, {processes} processes"
    return Sides(objective_step(settings, FULL), {name: Together(step, processes, settings.seed)})


def plan_of(settings: Settings, bank: BankOptions) -> Plan:
    """Return the plan of a case."""
    return Plan(settings.samples, settings.batch, settings.negatives, settings.dim, bank.dtype, bank.length)


def _case(settings: Settings, bank: BankOptions) -> Case:
    plan = plan_of(settings, bank)
    labels = LABEL * settings.samples
    note = (
        f"{_name(settings, bank)}: planned {plan.held / 2**20:,.0f} MiB beside the data's labels "
        f"({labels / 2**20:,.0f} MiB), {plan.flops / 1e9:.3g} GFLOP a step"
    )
    return Case("scale", partial(scale, settings, bank), note, quick=False, held=True)


def _shared_case(settings: Settings) -> Case:
    count = max(2, settings.threads)
    note = f"{count} processes of one thread share the banks; the baseline is one process of {settings.threads} threads"
    return Case("scale", partial(shared, settings, count), note, quick=False, memory="never")


def _name(settings: Settings, bank: BankOptions) -> str:
    kept = bank.dtype if bank.length is None else f"queue of {bank.length:,}"
    return f"N={settings.samples:,}, B={settings.batch:,}, K={settings.negatives:,}, {kept}"
