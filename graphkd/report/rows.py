"""Rows of tables: finished runs grouped by their configuration, one record a seed."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphkd.identity import short
from graphkd.report.markup import printable
from graphkd.report.metrics import value_of
from graphkd.report.protocol import Protocol
from graphkd.report.record import Record, Teacher
from graphkd.report.statistics import Summary, summarise

LONGEST_VALUE = 60


@dataclass(frozen=True)
class Row:
    """The finished runs of one configuration: those that share the first five fields.

    Attributes:
        study: Name of the suite.
        pair: Teacher and student in one name.
        data: Name of the data set, or "" where the records do not say it.
        variant: Name within the suite.
        identity: Identity of the config.
        label: The variant, and what tells this row from others of the same variant.
        runs: One record a seed, by seed.
        repeated: Seeds of which more than one record exists.
    """

    study: str
    pair: str
    data: str
    variant: str
    identity: str
    label: str
    runs: tuple[Record, ...]
    repeated: tuple[int, ...] = ()

    @property
    def table(self) -> tuple[str, str, str]:
        """Study, pair and data set, which the rows of a table share."""
        return self.study, self.pair, self.data

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, sorted."""
        return tuple(run.seed for run in self.runs)

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """The different protocols of its runs, as far as records say them: usually one."""
        return tuple(dict.fromkeys(run.protocol for run in self.runs if run.protocol is not None))

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """The different teachers of its runs: one, unless it was trained anew elsewhere."""
        return tuple(dict.fromkeys(run.teacher for run in self.runs if run.teacher is not None))

    def by_seed(self, metric: str) -> dict[int, float]:
        """Return the metric of each run that has a finite one, by seed."""
        known = ((run.seed, value_of(run, metric)) for run in self.runs)
        return {seed: value for seed, value in known if value is not None and math.isfinite(value)}

    def summary(self, metric: str) -> Summary:
        """Return mean and spread of a metric over the runs."""
        return summarise(self.by_seed(metric).values())


@dataclass(frozen=True)
class Group:
    """The runs of one table or figure, of any kind and status.

    `keys` are the study, or study and pair, `data` is "" where records do not say it, and files are named after `name`.
    """

    keys: tuple[str, ...]
    data: str
    name: str
    records: list[Record]

    @property
    def title(self) -> str:
        """The heading."""
        return ", ".join(self.keys) + (f" on {self.data}" if self.data else "")


def grouped(records: Iterable[Record], by: Sequence[str] = ("study", "pair")) -> list[Group]:
    """Group records by these fields and the data set; groups without a finished run are dropped.

    Returns:
        The groups, sorted. The data set is part of a name where the same keys stand for several data sets.
    """
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        key = (*(getattr(record, field) for field in by), record.data or "")
        groups[key].append(record)
    done = {key: group for key, group in sorted(groups.items()) if any(map(is_finished, group))}
    several = Counter(key[:-1] for key in done)
    return [
        Group(key[:-1], key[-1], "_".join(key[:-1]) + f"_{key[-1] or 'unknown'}" * (several[key[:-1]] > 1), group)
        for key, group in done.items()
    ]


def is_finished(record: Record) -> bool:
    """Return whether a run belongs in tables: a student that was trained to its end."""
    return record.kind == "student" and record.status == "done"


def aggregate(records: Iterable[Record], order: Sequence[str] = ()) -> list[Row]:
    """Return one row for each (study, pair, data, variant, identity) of the finished runs, sorted.

    A seed that is recorded twice counts once: the run of the newest code, or of a clean checkout where versions are
    equal. The result does not depend on the order of the records.

    Args:
        records: Runs of any kind and status.
        order: Variants in the order of their rows within a table; the others follow by name.
    """
    by_row: dict[tuple[str, str, str, str, str], dict[int, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in filter(is_finished, records):
        key = (record.study, record.pair, record.data or "", record.variant, record.identity)
        by_row[key][record.seed].append(record)
    rows = []
    for key, by_seed in sorted(by_row.items()):
        runs = tuple(_newest(by_seed[seed]) for seed in sorted(by_seed))
        repeated = tuple(seed for seed in sorted(by_seed) if len(by_seed[seed]) > 1)
        rows.append(Row(*key, label=key[3], runs=runs, repeated=repeated))
    place = {variant: index for index, variant in enumerate(order)}
    rank = {row.variant: (place.get(row.variant, len(place)), row.variant) for row in rows}
    return sorted(_labelled(rows), key=lambda row: (row.table, rank[row.variant], *_natural(row.label)))


def named(rows: Sequence[Row], name: str | None) -> list[Row]:
    """Return the rows of that label, or else of that variant."""
    return [row for row in rows if row.label == name] or [row for row in rows if row.variant == name]


def common_protocol(rows: Sequence[Row]) -> Protocol | None:
    """Return the protocol of all rows, or None where it differs, or a record does not say it.

    A student without a teacher has the protocol of the others.
    """
    with_teacher = protocols_of(rows)
    known = all(run.protocol is not None for row in rows for run in row.runs)
    return with_teacher[0] if known and len(with_teacher) == 1 else None


def protocols_of(rows: Iterable[Row]) -> list[Protocol]:
    """Return the different protocols of rows; one without a teacher counts only where no other is equal but for it."""
    found = dict.fromkeys(protocol for row in rows for protocol in row.protocols)
    taught = {dataclasses.replace(protocol, teacher="none") for protocol in found if protocol.teacher != "none"}
    return [protocol for protocol in found if protocol not in taught]


def _natural(label: str) -> tuple[list[str | float], str]:
    """Return a key that sorts labels by text, but numbers within them by value."""
    parts = re.split(r"((?:(?<==)-)?\d+(?:\.\d+)?(?:e[+-]?\d+)?)", label)  # text and numbers take turns
    return [float(part) if place % 2 else part for place, part in enumerate(parts)], label


def _newest(records: Sequence[Record]) -> Record:
    def newness(record: Record) -> tuple[list[int], bool, str]:
        version = [int(number) for number in re.findall(r"\d{1,9}", record.code.version)]
        return version, not record.code.dirty, record.to_json()

    return records[0] if len(records) == 1 else max(records, key=newness)


def _labelled(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with labels that tell those of one variant apart: by what they varied, else by identity."""
    siblings: dict[tuple[Any, str], list[Row]] = defaultdict(list)
    for row in rows:
        siblings[row.table, row.variant].append(row)
    named = [row for group in siblings.values() for row in _told_apart(group)]
    identities: dict[tuple[Any, str], list[str]] = defaultdict(list)
    for row in named:
        identities[row.table, row.label].append(row.identity)
    labelled = []
    for row in named:
        same = identities[row.table, row.label]
        name = short(row.identity) if len(set(map(short, same))) == len(same) else row.identity
        labelled.append(row if len(same) == 1 else dataclasses.replace(row, label=f"{row.label} #{name}"))
    return labelled


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    varied = [dict(_flat(row.runs[0].varied)) for row in rows]
    names = sorted({name for options in varied for name in options})
    differing = [name for name in names if len({options.get(name) for options in varied}) > 1]
    labelled = []
    for row, options in zip(rows, varied, strict=True):
        values = ", ".join(f"{name}={options[name]}" for name in differing if name in options)
        labelled.append(dataclasses.replace(row, label=f"{row.variant} ({values})") if values else row)
    return labelled


def _flat(options: Mapping[str, Any], inside: str = "") -> Iterable[tuple[str, str]]:
    """Yield dotted names with values as one printable text each."""
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{inside}{name}.")
        else:
            yield printable(inside + name), printable(value)[:LONGEST_VALUE]
