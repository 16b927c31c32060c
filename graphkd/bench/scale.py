"""Cases of how the HKD objective's memory and time grow."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from graphkd.bench.case import Case, Settings, Sides
from graphkd.bench.plan import Plan
from graphkd.bench.training import objective_step
from graphkd.contrast.options import BankOptions

FULL = BankOptions()
HALF = BankOptions(dtype="bfloat16")


def scale_cases(settings: Settings) -> list[Case]:
    """Larger N, K and B, banks of half the precision, and a queue; the memory of what is held counts too."""
    large = replace(settings, samples=settings.larger_samples)
    largest = replace(settings, samples=settings.largest_samples)
    queue = BankOptions(kind="queue", length=4 * settings.negatives)
    sizes = [
        (settings, FULL),
        (replace(settings, batch=settings.larger_batch), FULL),
        (replace(settings, negatives=settings.larger_negatives), FULL),
        (large, FULL),
        (large, HALF),
        (largest, HALF),
        (largest, queue),
    ]
    return [_case(size, bank) for size, bank in sizes]


def scale(settings: Settings, bank: BankOptions) -> Sides:
    """The loss forward and backward and the update of the banks, without a baseline."""
    return Sides(None, {_name(settings, bank): objective_step(settings, bank)})


def plan_of(settings: Settings, bank: BankOptions) -> Plan:
    """The plan of a case."""
    return Plan(settings.samples, settings.batch, settings.negatives, settings.dim, bank.dtype, bank.length)


def _case(settings: Settings, bank: BankOptions) -> Case:
    plan = plan_of(settings, bank)
    note = f"{_name(settings, bank)}: planned {plan.held / 2**20:,.0f} MiB held, {plan.flops / 1e9:.3g} GFLOP a step"
    return Case("scale", partial(scale, settings, bank), note, quick=False, held=True)


def _name(settings: Settings, bank: BankOptions) -> str:
    kept = bank.dtype if bank.length is None else f"queue of {bank.length:,}"
    return f"N={settings.samples:,}, B={settings.batch:,}, K={settings.negatives:,}, {kept}"
