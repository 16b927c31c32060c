"""What a grid shows: pairs, rows and published figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from graphkd.binding import bind, convert, options_of
from graphkd.errors import check, one_of
from graphkd.report.protocol import Protocol
from graphkd.report.statistics import Summary, summarise


@dataclass(frozen=True)
class PublishedRow:
    """Published figures of a method: test top-1 in percent and its deviation for each pair of the grid, and ARI."""

    mean: tuple[float | None, ...]
    std: tuple[float | None, ...] | None = None
    ari: float | None = None


@dataclass(frozen=True)
class Published:
    """Published figures to compare a study with: their source, data set, rows by variant, and protocol."""

    source: str
    data: str
    rows: Mapping[str, PublishedRow]
    protocol: Protocol | None = None


@dataclass(frozen=True)
class OtherFigures:
    """Test top-1 of a method in percent for each pair of the grid, by a source and protocol of its own."""

    source: str
    protocol: Protocol
    mean: tuple[float | None, ...]


@dataclass(frozen=True)
class Elsewhere:
    """Figures of other papers on a data set, by the method's name; none is compared with a run."""

    data: str
    rows: Mapping[str, OtherFigures]


@dataclass(frozen=True)
class GridSpec:
    """What a grid shows, as `configs/table/<name>.yaml` says it.

    Attributes:
        name: Name of the layout.
        layout: The kind of layout.
        study: The study, or None for a grid of each.
        pairs: Columns in order; other pairs of the study follow by name, those that it lacks are left out.
        rows: Labels by variant, in order; other variants of the study follow by name. "teacher" is the accuracy
            of the teachers that the study's students had.
        target: The variant whose improvement over each row ARI measures.
        student: The variant trained without a teacher, to which ARI is relative.
        published: Figures to compare with.
        elsewhere: Figures by other protocols.
        description: What it shows, in one line.
    """

    name: str
    layout: Literal["grid"]
    study: str | None
    pairs: tuple[str, ...]
    rows: Mapping[str, str]
    target: str
    student: str
    published: Published | None = None
    elsewhere: Elsewhere | None = None
    description: str = ""

    def __post_init__(self) -> None:
        """Raise `UserError` where a pair is named twice, or a row or a published figure has no place."""
        table = f"table '{self.name}'"
        for pair in self.pairs:
            check(self.pairs.count(pair) == 1, f"{table} has the pair '{pair}' twice")
        published = self.published.rows if self.published else {}
        named = [("target", self.target), ("student", self.student), *(("published", name) for name in published)]
        for option, variant in named:
            one_of(variant, self.rows, f"{table}: option '{option}' names no row")
        for variant, row in published.items():
            for figures in (row.mean, row.std):
                fits = figures is None or len(figures) == len(self.pairs)
                check(fits, f"{table}: published row '{variant}' must have {len(self.pairs)} figures, one a pair")
        for method, other in (self.elsewhere.rows if self.elsewhere else {}).items():
            fits = len(other.mean) == len(self.pairs)
            check(fits, f"{table}: the row '{method}' of elsewhere must have {len(self.pairs)} figures, one a pair")

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> GridSpec:
        """Build the spec from a config.

        Raises:
            UserError: A key is unknown or missing, a value is of a wrong type, or as in the constructor.
        """
        part = f"table '{options.get('name', '')}'"
        values = bind(options, options_of(cls), part).all
        for variant, label in values["rows"].items():
            convert(label, str, f"{part}: row '{variant}'")
        for option, kind in (("published", PublishedRow), ("elsewhere", OtherFigures)):
            if (of := values[option]) is not None:
                rows = {name: convert(row, kind, f"{part}: {option} row '{name}'") for name, row in of.rows.items()}
                values[option] = dataclasses.replace(of, rows=rows)
        return cls(**values)

    def published_mean(self, variant: str, pair: str) -> Summary:
        """Return the published figure of a variant and pair as mean and std, with n = 0 where there is none."""
        row = self.published.rows.get(variant) if self.published else None
        at = self.pairs.index(pair) if pair in self.pairs else None
        mean = None if row is None or at is None else row.mean[at]
        std = None if row is None or at is None or row.std is None else row.std[at]
        return summarise([mean]) if std is None or mean is None else Summary(mean, std, math.nan, 1)

    def published_ari(self, variant: str) -> float:
        """Return the published ARI of a variant, NaN where there is none."""
        row = self.published.rows.get(variant) if self.published else None
        return math.nan if row is None or row.ari is None else row.ari
