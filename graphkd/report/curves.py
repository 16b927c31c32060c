"""What runs logged by epoch, thinned and put together over seeds."""

from __future__ import annotations

import functools
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphkd.errors import UserError
from graphkd.files import read_small
from graphkd.report.load import METRICS_FILE
from graphkd.report.metrics import DIAGNOSTICS, metric_of

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
        points: About how many epochs of each curve to keep, the first and the last among them.

    Returns:
        The curves by the name of the value, in the order of the log.
    """
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for folder in folders:
        for epoch, line in dict(_lines(folder)).items():
            for name, value in _values(line):
                values[name][epoch].append(value)
    return {name: _curve(of, points) for name, of in values.items()}


def _curve(values: Mapping[int, Sequence[float]], points: int) -> Curve:
    """Return a curve of about so many epochs, evenly spaced among those that have the value."""
    known = sorted(values)
    last = len(known) - 1
    epochs = [known[place] for place in sorted({0, *range(last, -1, -math.ceil(len(known) / points))})]
    seeds = [values[epoch] for epoch in epochs]
    means = tuple(math.fsum(of) / len(of) for of in seeds)
    return Curve(tuple(epochs), means, tuple(map(min, seeds)), tuple(map(max, seeds)))


def _lines(folder: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the epochs and lines of a log."""
    try:
        log = read_small(os.path.join(folder, METRICS_FILE), LARGEST_BYTES)
    except UserError:
        return
    for text in log.splitlines():
        try:
            line = None if OF_A_STAGE in text else json.loads(text)
        except (ValueError, RecursionError):
            continue  # a line that was torn when the run was killed
        if isinstance(line, dict) and isinstance(line.get("epoch"), int):
            yield line["epoch"], line


def _values(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of a line, by the name under which they are shown."""
    diagnostics = _mapping(line.get("diagnostics"))
    times = Counter(map(_last, diagnostics)) if diagnostics else {}
    found = [
        ("test top-1 (%)", _mapping(line.get("test")).get("top1")),
        ("validation top-1 (%)", _mapping(line.get("val")).get("top1")),
        ("train top-1 (%)", line.get("train_top1")),
        ("loss, weighted sum", line.get("total")),
        *((f"loss of {term}", _mapping(of).get("raw")) for term, of in _mapping(line.get("terms")).items()),
        *((_title(name, times[_last(name)] > 1), value) for name, value in diagnostics.items()),
    ]
    for name, value in found:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield name, float(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _last(diagnostic: str) -> str:
    return diagnostic.rpartition(".")[2]


@functools.cache
def _title(diagnostic: str, several: bool) -> str:
    """Return how a diagnostic is shown: without its term, so that runs compare, unless several terms have it."""
    if _last(diagnostic) not in DIAGNOSTICS:
        term, _, last = diagnostic.rpartition(".")
        return f"{last.replace('_', ' ')} of {term}"
    return metric_of(diagnostic if several else _last(diagnostic)).label
