"""Distances and neighbours by plain loops over plain numbers: what the graph builders are compared with."""

from __future__ import annotations

import math

from torch import Tensor

from graphkd.graph import BatchGraph

Edges = set[tuple[int, int]]


def edges(graph: BatchGraph) -> Edges:
    """(target, source) of each edge."""
    return set(zip(graph.targets.tolist(), graph.sources.tolist(), strict=True))


def distances(values: Tensor, metric: str) -> list[list[float]]:
    """Distance of each row to each other."""
    rows: list[list[float]] = values.tolist()
    if metric == "softmax_cosine":
        rows = [softmax(row) for row in rows]
    return [[euclidean(a, b) if metric == "euclidean" else 1 - cosine(a, b) for b in rows] for a in rows]


def nearest(distance: list[list[float]], k: int, among: Edges | None = None) -> Edges:
    """Each row with itself and its k - 1 nearest others, (target, source); of equals the lower index."""
    chosen: Edges = set()
    for target, row in enumerate(distance):
        others = [source for source in range(len(row)) if among is None or (target, source) in among]
        others.sort(key=lambda source: (source != target, row[source], source))
        chosen |= {(target, source) for source in others[:k]}
    return chosen


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def cosine(a: list[float], b: list[float]) -> float:
    """The cosine, with the product of norms no smaller than 1e-7."""
    norms = math.hypot(*a) * math.hypot(*b)
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / max(norms, 1e-7)


def euclidean(a: list[float], b: list[float]) -> float:
    return math.dist(a, b)
