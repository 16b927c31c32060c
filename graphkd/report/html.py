"""One HTML page of everything that runs left behind; it needs nothing but itself."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from graphkd.files import make_folder, write_atomically
from graphkd.report.caveats import left_out
from graphkd.report.load import Loaded
from graphkd.report.markup import NONE, Block, Mark, visible
from graphkd.report.sections import Cost, Sections, Studies
from graphkd.report.tables import TableSpec

PAGE = "report.html"
NUMBER = re.compile(r"(?:\[|< )?([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?![\w.])", re.ASCII)
"""The number at the start of a cell, by which a column is sorted."""
COMPRESSION = 6


@dataclass(frozen=True)
class Column:
    """A column as the page shows it."""

    heading: str
    is_number: bool


@dataclass(frozen=True)
class Entry:
    """A cell as the page shows it: its text, its mark, and what it is sorted by."""

    text: str
    mark: Mark | None
    key: str


def write_page(
    loaded: Loaded,
    folder: str | os.PathLike[str],
    spec: TableSpec,
    studies: Studies | None = None,
    cost_of: Callable[[str], Cost | None] = lambda folder: None,
) -> Path:
    """Write `report.html`: tables, charts, options and links of all runs.

    The same runs give the same bytes under the same versions of Plotly and Jinja.

    Args:
        loaded: What a results folder holds.
        folder: Where to write; it is made.
        spec: Columns of the tables.
        studies: What suites say.
        cost_of: The cost of the student in a run's folder, None where it cannot be known. It is asked only where
            students differ.

    Raises:
        UserError: The folder cannot be made.
        OSError: The file cannot be written.
    """
    make_folder(folder)
    path = Path(folder, PAGE)
    write_atomically(path, _render(loaded, Sections(loaded, folder, spec, studies or Studies(), cost_of)))
    return path


def view(block: Block) -> tuple[list[Column], list[list[Entry]]]:
    """Return the columns and rows of a block; a column is of numbers if each of its cells begins with one or is empty.

    The first column has the labels, which are texts.
    """
    numbers = [[_number(cell.text) for cell in row] for row in block.cells]
    columns = [
        Column(
            heading,
            place > 0
            and all(of[place] or row[place].text == NONE for row, of in zip(block.cells, numbers, strict=True)),
        )
        for place, heading in enumerate(block.header)
    ]
    rows = [
        [
            Entry(cell.text, cell.mark, number if column.is_number else cell.text)
            for cell, number, column in zip(row, of, columns, strict=True)
        ]
        for row, of in zip(block.cells, numbers, strict=True)
    ]
    return columns, rows


def _render(loaded: Loaded, builder: Sections) -> str:
    import jinja2

    sections = list(builder.build())
    figures = [chart.figure for section in sections for of in section.charts for chart in of.charts]
    teachers = [builder.run(record, record.variant) for record in loaded.records if record.kind == "teacher"]
    loader = jinja2.PackageLoader("graphkd.report", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"visible": visible, "view": view}
    page: str = environment.get_template("report.html.j2").render(
        sections=sections,
        teachers=teachers,
        students=len(loaded.records) - len(teachers),
        versions=sorted({record.code.version for record in loaded.records}),
        problems=[*left_out(loaded.records), *loaded.problems],
        plotly=_plotly(),
        figures=_packed(json.dumps(figures, allow_nan=False, separators=(",", ":")).encode()),
    )
    return page


def _number(text: str) -> str:
    found = NUMBER.match(text)
    return found[1] if found else ""


@functools.cache
def _plotly() -> str:
    """Return Plotly's JavaScript, packed."""
    return _packed((resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes())


def _packed(content: bytes) -> str:
    """Return the content as gzip in Base64, for Plotly two fifths of its length."""
    return base64.b64encode(gzip.compress(content, COMPRESSION, mtime=0)).decode()
