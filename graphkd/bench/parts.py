"""The parts of the benchmark by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphkd.bench.case import Case, Settings
from graphkd.bench.contrast import contrast_cases, growth_cases, sampling_cases
from graphkd.bench.data import data_cases
from graphkd.bench.graph import graph_cases
from graphkd.bench.scale import scale_cases
from graphkd.bench.suite import suite_cases
from graphkd.bench.training import loss_cases, step_cases
from graphkd.errors import one_of

PARTS: dict[str, Callable[[Settings], list[Case]]] = {
    "loss": loss_cases,
    "contrast": contrast_cases,
    "sampling": sampling_cases,
    "data": data_cases,
    "step": step_cases,
    "suite": suite_cases,
    "graph": graph_cases,
    "growth": growth_cases,
    "scale": scale_cases,
}


def select_cases(settings: Settings, parts: Sequence[str] = (), quick: bool = False) -> list[Case]:
    """Return the cases of some parts, or all, in the benchmark's order; `quick` leaves out slow ones of no named part.

    Raises:
        UserError: There is no part of a name.
    """
    for name in parts:
        one_of(name, PARTS, "bench has no part")
    selected = [part(settings) for name, part in PARTS.items() if name in parts or not parts]
    return [case for cases in selected for case in cases if case.quick or parts or not quick]
