"""What runs logged by epoch, thinned and put together over seeds."""

from __future__ import annotations

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphkd.errors import UserError
from graphkd.files import read_small
from graphkd.report.metrics import DIAGNOSTICS, metric_of

METRICS_FILE = "metrics.jsonl"
LARGEST_BYTES = 64 << 20
OF_A_STAGE = b'"stage": "'
"""What a line of a pre-training stage holds; these count their own epochs."""


@dataclass(frozen=True)
class Curve:
    """A value by epoch: mean, lowest and highest of the seeds."""

    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def read_curves(folders: Sequence[str], points: int) -> dict[str, Curve]:
    """Read what the runs of a row logged by epoch: accuracies, losses of terms before their weights, diagnostics.

    Args:
        folders: Folders of the runs; one without readable lines has no part in any curve.
        points: About how many epochs to keep, the first and the last among them.

    Returns:
        The curves by the name of the value, in the order of the log.
    """
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for folder in folders:
        for epoch, line in dict(_lines(folder, points)).items():
            for name, value in _values(line):
                values[name][epoch].append(value)
    return {name: _curve(of) for name, of in values.items()}


def _curve(values: Mapping[int, Sequence[float]]) -> Curve:
    epochs = sorted(values)
    seeds = [values[epoch] for epoch in epochs]
    means = tuple(math.fsum(of) / len(of) for of in seeds)
    return Curve(tuple(epochs), means, tuple(map(min, seeds)), tuple(map(max, seeds)))


def _lines(folder: str, points: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield about so many epochs and lines of a log, evenly spaced; the others are not even parsed."""
    try:
        log = read_small(os.path.join(folder, METRICS_FILE), LARGEST_BYTES)
    except UserError:
        return
    lines = [line for line in log.splitlines() if OF_A_STAGE not in line]
    last = len(lines) - 1
    step = max(1, math.ceil(len(lines) / points))
    for place in sorted({0, *range(last, -1, -step)} if lines else ()):
        try:
            line = json.loads(lines[place])
        except (ValueError, RecursionError):
            continue  # a line that was torn when the run was killed
        if isinstance(line, dict) and isinstance(line.get("epoch"), int):
            yield line["epoch"], line


def _values(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of a line, by the name under which they are shown."""

    def at(*path: str) -> Any:
        value: Any = line
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def items(key: str) -> Iterator[tuple[str, Any]]:
        of = at(key)
        yield from of.items() if isinstance(of, dict) else ()

    times = Counter(_last(name) for name, _ in items("diagnostics"))
    found = [
        ("test top-1 (%)", at("test", "top1")),
        ("validation top-1 (%)", at("val", "top1")),
        ("train top-1 (%)", at("train_top1")),
        ("loss, weighted sum", at("total")),
        *((f"loss of {term}", of.get("raw") if isinstance(of, dict) else None) for term, of in items("terms")),
        *((_title(name, times[_last(name)] > 1), value) for name, value in items("diagnostics")),
    ]
    for name, value in found:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield name, float(value)


def _last(diagnostic: str) -> str:
    return diagnostic.rpartition(".")[2]


def _title(diagnostic: str, several: bool) -> str:
    """Return how a diagnostic is shown: without its term, so that runs compare, unless several terms have it."""
    if _last(diagnostic) not in DIAGNOSTICS:
        term, _, last = diagnostic.rpartition(".")
        return f"{last.replace('_', ' ')} of {term}"
    return metric_of(diagnostic if several else _last(diagnostic)).label
