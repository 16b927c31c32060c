"""What runs logged by epoch, thinned and put together over seeds."""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphkd.errors import UserError
from graphkd.files import read_small
from graphkd.report.load import METRICS_FILE
from graphkd.report.metrics import DIAGNOSTICS, metric_of

LARGEST_BYTES = 64 << 20
OF_A_STAGE = b'"stage": "'
"""What a line of a pre-training stage holds; these count their own epochs."""
EPOCH = re.compile(rb'"epoch": ?(\d{1,9})')
EVALUATED = re.compile(rb'"(?:test|val)": ?\{')
EXPLAINED = re.compile(rb'"diagnostics": ?\{ ?"')


@dataclass(frozen=True)
class Curve:
    """A value by epoch: mean, lowest and highest of the seeds."""

    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def read_curves(folders: Sequence[str], points: int) -> dict[str, Curve]:
    """Read what the runs of a row logged by epoch: accuracies, losses of terms before their weights, diagnostics.

    Only the lines of epochs that are kept are parsed: pages of thousands of long runs have little else to do.

    Args:
        folders: Folders of the runs; one without readable lines has no part in any curve.
        points: About how many epochs of each curve to keep, the first and the last of the log, of those evaluated and
            of those with diagnostics among them.

    Returns:
        The curves by the name of the value, in the order of the log.
    """
    logs = [dict(_lines(folder)) for folder in folders]
    kinds = [
        {epoch for log in logs for epoch, line in log.items() if has_kind(line)}
        for has_kind in (bool, EVALUATED.search, EXPLAINED.search)
    ]
    kept = [_thinned(epochs, points) for epochs in kinds]
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for log in logs:
        for epoch in sorted(log.keys() & set().union(*kept)):
            for name, value in _values(_parsed(log[epoch])):
                values[name][epoch].append(value)
    return {name: _curve(of, kept, points) for name, of in values.items()}


def _curve(values: Mapping[int, Sequence[float]], kept: Sequence[Sequence[int]], points: int) -> Curve:
    """Return a curve over the first of these epochs that all have the value, or over about so many that do."""
    epochs = next((of for of in kept if of and values.keys() >= set(of)), None) or _thinned(values, points)
    seeds = [values[epoch] for epoch in epochs]
    means = tuple(math.fsum(of) / len(of) for of in seeds)
    return Curve(tuple(epochs), means, tuple(map(min, seeds)), tuple(map(max, seeds)))


def _thinned(epochs: Iterable[int], points: int) -> list[int]:
    """Return the first, the last, and between them about so many epochs, evenly spaced among these."""
    known = sorted(epochs)
    if not known:
        return []
    step = math.ceil(len(known) / points)
    return [known[place] for place in sorted({0, *range(len(known) - 1, -1, -step)})]


def _lines(folder: str) -> Iterator[tuple[int, bytes]]:
    """Yield the epochs and lines of a log, without those of stages."""
    try:
        log = read_small(os.path.join(folder, METRICS_FILE), LARGEST_BYTES)
    except UserError:
        return
    for line in log.splitlines():
        epoch = EPOCH.search(line)
        # A line that was torn when the run was killed has no end.
        if epoch and OF_A_STAGE not in line and line.rstrip().endswith(b"}"):
            yield int(epoch[1]), line


def _parsed(line: bytes) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(line))
    except (ValueError, RecursionError):
        return {}


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
