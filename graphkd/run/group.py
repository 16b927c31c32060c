"""Decide which runs train together, and cut a suite into groups for several workers."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence

from graphkd.run.spec import StudentSpec

_WORTH = 0.98
"""A further cut must shorten the whole suite to at most this share of its time."""


def stream(spec: StudentSpec) -> Hashable:
    """Return a key that runs with the same stream of batches and teacher settings share."""
    trainer = spec.trainer
    return (
        json.dumps(spec.data.document, sort_keys=True), spec.seed, trainer.batch_size, trainer.samples_per_class,
        trainer.accelerator, trainer.threads, trainer.precision, trainer.teacher_precision, trainer.matmul_precision,
        trainer.channels_last, trainer.compile,
    )  # fmt: skip


def cut(specs: Sequence[StudentSpec], workers: int = 1, largest: int | None = None) -> list[list[int]]:
    """Cut runs into groups that train together, so that all workers finish at about the same time.

    A run on several devices stays alone. Runs without a teacher join a group of their stream.

    Args:
        specs: The runs.
        workers: Number of groups that train at once.
        largest: Largest size of a group; None for no limit.

    Returns:
        The positions of each group's runs, the most expensive groups first.
    """
    groups = [part for group in _shared(specs) for part in _chunks(group, largest or len(specs))]
    while len(costliest := max(groups, key=lambda group: _cost(specs, group))) > 1:
        others = [group for group in groups if group is not costliest]
        tried = [*others, *_chunks(costliest, -(-len(costliest) // 2))]
        if len(groups) >= workers and _end(specs, tried, workers) > _WORTH * _end(specs, groups, workers):
            break
        groups = tried
    return sorted(groups, key=lambda group: -_cost(specs, group))


def _shared(specs: Sequence[StudentSpec]) -> list[list[int]]:
    """Return the runs of each stream and teacher; those without a teacher join the first group of their stream."""
    groups: dict[Hashable, list[int]] = {}
    free: list[int] = []
    for number, spec in enumerate(specs):
        if spec.trainer.processes > 1:
            groups[number] = [number]
        elif spec.teacher is None:
            free.append(number)
        else:
            groups.setdefault((stream(spec), spec.teacher.identity, spec.teacher.seed), []).append(number)
    for number in free:
        own = stream(specs[number])
        key = next((key for key in groups if isinstance(key, tuple) and key[0] == own), (own, None))
        groups.setdefault(key, []).append(number)
    return [sorted(group) for group in groups.values()]


def _chunks(group: Sequence[int], most: int) -> list[list[int]]:
    return [list(group[start : start + most]) for start in range(0, len(group), most)]


def _cost(specs: Sequence[StudentSpec], group: Sequence[int]) -> int:
    """Estimate a group's cost in epochs: its students', plus the teacher's, computed once for all of them."""
    taught = [specs[number].trainer.epochs for number in group if specs[number].teacher is not None]
    return sum(specs[number].trainer.epochs for number in group) + max(taught, default=0)


def _end(specs: Sequence[StudentSpec], groups: Sequence[Sequence[int]], workers: int) -> int:
    """Return when the last worker ends if each always takes the most expensive group left."""
    ends = [0] * workers
    for cost in sorted((_cost(specs, group) for group in groups), reverse=True):
        ends[ends.index(min(ends))] += cost
    return max(ends)
