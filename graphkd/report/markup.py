"""A table as it is printed, and the CSV, Markdown and LaTeX files that it becomes."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graphkd.files import make_folder, write_atomically
from graphkd.report.metrics import Direction
from graphkd.report.statistics import TIE_DIGITS, Summary

if TYPE_CHECKING:
    import pandas as pd

NONE = "—"
MOST_NAMES = 10
LONGEST_STEM = 120
MARKDOWN = {None: "{}", "best": "**{}**", "second": "<u>{}</u>"}
LATEX = {None: "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}
LATEX_HEADING = 14
"""Letters of a line of a heading, about those of a value with its spread."""
LATEX_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "]": "{]}", "*": "{*}", "±": r"$\pm$", NONE: "---", "-": "$-$",
    "->": r"$\rightarrow$", "`": r"\textasciigrave{}",
}  # fmt: skip
"""What stands for a sign in LaTeX; brackets and stars too, for they mean something at the start of a row."""
LATEX_PATTERN = re.compile(r"->|--+(?!>)|(?<!\w)-(?=\d)|[\\{}$&#%_^~<>|\[\]*`±" + NONE + "]")
MARKDOWN_SIGNS = re.compile(
    r"(\[[-+\d., ]+\](?![\[(:]))|[\\`*|<\[\]~$]|(?<![^\W_])_|_(?![^\W_])|&(?=[#\w])|:(?=//)|(?<=www)\.|(?<!\S)#"
)
"""Signs that Markdown takes for more than themselves wherever they stand, `_` inside a word is none; and intervals."""
MARKDOWN_START = re.compile(r"^(?:\d{1,9}(?=[.)](?:\s|$))|(?=>|[-+=](?:[-+=\s]|$)))")
"""How a line begins that would be a list, a quotation or a rule, up to the sign that makes it one."""
FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
"""How a text begins that a spreadsheet would run: signs of a formula, wide ones too, or what tears the cell."""

Mark = Literal["best", "second"]


@dataclass(frozen=True)
class Cell:
    """One printed cell: its text, and whether it is the best or second best of its column."""

    text: str
    mark: Mark | None = None


@dataclass(frozen=True)
class Block:
    """Printed rows below one header.

    Attributes:
        header: Headings of the columns.
        cells: The cells by row, rounded.
        title: Heading within the table, may be empty.
        tail: Number of columns at the end that a narrow screen shows before those in the middle.
    """

    header: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    title: str = ""
    tail: int = 0

    @classmethod
    def of(cls, header: Iterable[str], rows: Iterable[Iterable[Cell | str]], title: str = "", tail: int = 0) -> Block:
        """Return a block of rows of cells, or of texts that are not marked."""
        cells = (tuple(Cell(cell) if isinstance(cell, str) else cell for cell in row) for row in rows)
        return cls(tuple(header), tuple(cells), title, tail)

    def rows(self) -> list[list[str]]:
        """Return the printed cells as plain text, without the header."""
        return [[cell.text for cell in row] for row in self.cells]


@dataclass(frozen=True, eq=False)
class Table:
    """One table, whatever its layout.

    Attributes:
        name: Name, from which files get theirs.
        title: Heading.
        caption: What stands below the heading, may be empty.
        blocks: What is printed, one below the other.
        legend: How to read the cells.
        frame: All values, unrounded.
        notes: Footnotes and warnings, a line each.
    """

    name: str
    title: str
    caption: str
    blocks: tuple[Block, ...]
    legend: str
    frame: pd.DataFrame
    notes: tuple[str, ...]

    def csv(self) -> str:
        """Return all values, unrounded, as CSV; a text that a spreadsheet would run begins with a quote there."""

        def inert(value: Any) -> Any:
            return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value

        text: str = self.frame.map(inert).rename(columns=inert).to_csv(index=False, lineterminator="\n")
        return text

    def markdown(self) -> str:
        """Return heading, caption, blocks, legend and notes as GitHub Markdown."""
        parts = [f"### {_markdown(self.title)}", _markdown(self.caption)]
        for block in self.blocks:
            parts += [f"#### {_markdown(block.title)}" if block.title else "", markdown_block(block)]
        parts += [_markdown(self.legend), "\n".join(f"- {_markdown(note)}" for note in self.notes)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def latex(self) -> str:
        """Return the same as a LaTeX `table` with one `tabular` a block, for the packages booktabs and adjustbox.

        A block that is wider than the text is shrunk to it; its headings are broken, so that it seldom is by much.
        """
        caption = ". ".join(part.rstrip(".") for part in (self.title, self.caption) if part)
        lines = [
            r"% \usepackage{booktabs,adjustbox}", r"\begin{table}", r"\centering", rf"\caption{{{_latex(caption)}.}}",
        ]  # fmt: skip
        for block in self.blocks:
            lines += [rf"\par\medskip {_latex(block.title)}\par" if block.title else r"\par\medskip"]
            first, *others = block.header
            head = " & ".join([_latex_heading(first, "l"), *(_latex_heading(each, "r") for each in others)]) + r" \\"
            rows = [
                " & ".join(LATEX[cell.mark].format(_latex(cell.text)) for cell in row) + r" \\" for row in block.cells
            ]
            begin = rf"\begin{{tabular}}{{l{'r' * (len(block.header) - 1)}}}"
            lines += [
                r"\begin{adjustbox}{max width=\linewidth}", begin, r"\toprule", head, r"\midrule", *rows,
                r"\bottomrule", r"\end{tabular}", r"\end{adjustbox}",
            ]  # fmt: skip
        lines += [rf"\par\smallskip\footnotesize {_latex(line)}" for line in (self.legend, *self.notes)]
        return "\n".join([*lines, r"\end{table}"]) + "\n"


def marks(means: Sequence[float], best: Direction | None) -> list[Mark | None]:
    """Mark the best and the second best mean; NaN gets no mark, nor does a mean that stands alone."""
    means = [round(mean, TIE_DIGITS) for mean in means]
    known = [mean for mean in means if math.isfinite(mean)]
    if best is None or len(known) < 2:
        return [None] * len(means)
    first, second, *_ = [*sorted(set(known), reverse=best == "max"), None]
    return ["best" if mean == first else "second" if mean == second else None for mean in means]


def spread(summary: Summary, n: int, decimals: int) -> str:
    """Return mean ± sample standard deviation as printed, with the number of values where it is not `n`."""
    if summary.n == 0:
        return NONE
    count = "" if summary.n == n else f" (n={summary.n})"
    return f"{fixed(summary.mean, decimals)} ± {fixed(summary.std, decimals)}{count}"


def fixed(value: float, decimals: int, sign: str = "") -> str:
    """Return a number as printed, or a dash for NaN; `sign="+"` also shows the sign of positive numbers."""
    return NONE if math.isnan(value) else f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"  # no "-0.00"


def write_tables(tables: Sequence[Table], folder: str | os.PathLike[str]) -> list[Path]:
    """Write `<name>.csv`, `.md` and `.tex` of each table, each whole or not at all, and make the folder.

    Returns:
        The files, in the order of the tables.

    Raises:
        UserError: The folder cannot be made.
        OSError: A file cannot be written.
    """
    make_folder(folder)
    paths = []
    for stem, table in zip(file_stems(table.name for table in tables), tables, strict=True):
        for suffix, text in ((".csv", table.csv()), (".md", table.markdown()), (".tex", table.latex())):
            paths.append(Path(folder, stem + suffix))
            write_atomically(paths[-1], text)
    return paths


def file_stems(names: Iterable[str]) -> Iterator[str]:
    """Yield a file name for each name: portable, without folders, and distinct even where case does not count."""
    taken: set[str] = set()
    for name in names:
        base = stem = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:LONGEST_STEM] or "table"
        numbers = itertools.count(2)
        while stem.lower() in taken:
            stem = f"{base}-{next(numbers)}"
        taken.add(stem.lower())
        yield stem


def markdown_block(block: Block) -> str:
    """Return a block as a Markdown table."""
    rows = [
        [_markdown(label) for label in block.header],
        [":--", *["--:"] * (len(block.header) - 1)],
        *([MARKDOWN[cell.mark].format(_markdown(cell.text)) for cell in row] for row in block.cells),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def visible(text: str) -> str:
    """Return a text with escapes in place of what a terminal or editor would act on instead of showing it."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else escaped(sign) for sign in text)


def printable(value: Any) -> str:
    """Return a value as text that does no harm to a terminal or a table: as JSON if need be."""
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)


def listed(names: Sequence[str]) -> str:
    """Return the first ten names in a line, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def escaped(sign: str) -> str:
    """Return a sign as Python escapes it."""
    return sign.encode("unicode_escape").decode()


def _markdown(text: str) -> str:
    safe = MARKDOWN_SIGNS.sub(lambda sign: sign[0] if sign[1] else f"\\{sign[0]}", visible(text).strip())
    return MARKDOWN_START.sub(r"\g<0>\\", safe)


def _latex_heading(text: str, side: Literal["l", "r"]) -> str:
    """Return a heading in short lines, aligned to a side."""
    lines = textwrap.wrap(text, LATEX_HEADING, break_long_words=False, break_on_hyphens=False)
    if len(lines) < 2:
        return _latex(text)
    broken = r"\\".join(map(_latex, lines))
    return rf"\shortstack[{side}]{{{broken}}}"


def _latex(text: str) -> str:
    return LATEX_PATTERN.sub(lambda sign: LATEX_SIGNS.get(sign[0], "{}".join(sign[0])), visible(text))
