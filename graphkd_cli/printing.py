"""Print tables and lines; at any width, no number and no name is cut."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphkd.identity import short
from graphkd.report.markup import Block, Cell, visible
from graphkd.report.metrics import METRICS

if TYPE_CHECKING:
    from graphkd.run import RunResult  # loads torch, which tables do not need

PLAIN_WIDTH = 200
"""Width up to which headings and texts widen a table without a terminal."""
UNBOUNDED = 100_000
FRAME, BETWEEN = 1, 3
"""Width of a table's rules: in all, and for each column."""
STYLES = {None: "", "best": "bold", "second": "underline"}


def console() -> Console:
    """Return the console of the commands, without markup; without a terminal, lines are never broken."""
    plain = Console(markup=False)
    return plain if plain.is_terminal and plain.width > 0 else Console(markup=False, width=UNBOUNDED)


def print_line(screen: Console, text: str) -> None:
    """Print a line without breaks, so that a path can be copied from it."""
    screen.print(Text(visible(text)), soft_wrap=True)


def print_text(screen: Console, text: str) -> None:
    """Print a sentence, broken between words on a narrow screen."""
    _print_words(screen, _words(visible(text)))


def print_block(
    screen: Console, block: Block, texts: Collection[int] = (), rules: bool = False, elsewhere: str = ""
) -> None:
    """Print a table that fits the screen.

    Headings, texts and long names break between words, numbers never. Columns that still do not fit are left out and
    named in a line below. Without room for the names and two columns, each row becomes a list of its cells. Without a
    terminal nothing is left out.

    Args:
        screen: The console.
        block: The rows, names first.
        texts: Indices of text columns.
        rules: Whether to draw lines between rows.
        elsewhere: Where to see left-out columns, besides a wider terminal.
    """
    width = screen.width if screen.is_terminal else PLAIN_WIDTH
    columns = [_column(block, index, index in texts, width // 2) for index in range(len(block.header))]
    shown = _fitting(columns, block.tail, width) if screen.is_terminal else list(range(len(columns)))
    if len(shown) < min(3, len(columns)):
        _print_lists(screen, block, texts)
        return
    table = Table(show_header=any(block.header), show_lines=rules)
    for index, extent in zip(shown, _grown([columns[index] for index in shown], width), strict=True):
        table.add_column(Text(visible(block.header[index])), width=extent)
    for row in block.cells:
        cells = [("\n".join(_lines(row[index], index in texts)), row[index].mark) for index in shown]
        table.add_row(*(Text(text, STYLES[mark]) for text, mark in cells))
    screen.print(table)
    missing = [heading for index, heading in enumerate(block.header) if index not in shown]
    if missing:
        where = f"{elsewhere} or a wider terminal" if elsewhere else "a wider terminal"
        print_text(screen, f"columns that do not fit: {'; '.join(missing)} ({where} shows them)")


class _Column(NamedTuple):
    """The smallest width that breaks no word or number, and the largest useful width."""

    least: int
    most: int


def _column(block: Block, index: int, is_text: bool, half: int) -> _Column:
    """Measure a column; names wider than half of the screen are treated as texts."""
    heading = visible(block.header[index])
    lines = [line for row in block.cells for line in _lines(row[index], is_text)]
    whole = _widest(lines)
    breaks = is_text or (index == 0 and whole > half)
    inside = _widest(word for line in lines for word in line.split()) if breaks else whole
    return _Column(max(inside, _widest(heading.split()), 1), max(whole, cell_len(heading), 1))


def _lines(cell: Cell, is_text: bool) -> list[str]:
    return [visible(line) for line in (cell.text.split("\n") if is_text else [cell.text])]


def _widest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _fitting(columns: Sequence[_Column], tail: int, width: int) -> list[int]:
    """Choose the columns that fit: first the leading three, then the tail, then those between."""
    places = list(range(len(columns)))
    order = dict.fromkeys([*places[:3], *places[len(places) - tail :], *places])
    room, chosen = width - FRAME, []
    for index in order:
        taken = columns[index].least + BETWEEN
        if taken <= room:
            room -= taken
            chosen.append(index)
        elif index == 0:
            return []
    return sorted(chosen)


def _grown(columns: Sequence[_Column], width: int) -> list[int]:
    """Distribute the width: the narrowest column that can use it gets more."""
    extents = [column.least for column in columns]
    for _ in range(width - FRAME - sum(extents) - BETWEEN * len(columns)):
        growing = [index for index, column in enumerate(columns) if extents[index] < column.most]
        if not growing:
            break
        extents[min(growing, key=extents.__getitem__)] += 1
    return extents


def _print_lists(screen: Console, block: Block, texts: Collection[int]) -> None:
    """Print each row as its name with a line for each further cell that is not empty."""
    for name, *cells in block.cells:
        print_line(screen, name.text)
        for index, cell in enumerate(cells, start=1):
            words = _words(visible(f"{block.header[index]}:")) if block.header[index] else []
            for line in filter(None, _lines(cell, index in texts)):
                words += _words(f" {line}") if index in texts else [f" {line}"]
                _print_words(screen, words, "  ")
                words = ["  "]


def _words(text: str) -> list[str]:
    """Split a text into words, each with the space before it."""
    return re.findall(r"\s*\S+", text)


def _print_words(screen: Console, words: Iterable[str], indent: str = "") -> None:
    """Print words, in as many lines as needed."""
    lines = [indent]
    for word in words:
        if screen.is_terminal and lines[-1].strip() and cell_len(lines[-1] + word) > screen.width:
            lines.append(f"{indent}  " if indent else "")
            word = word.lstrip()
        lines[-1] += word
    for line in lines:
        print_line(screen, line)


def rounded(value: float | None, decimals: int) -> str | None:
    """Return a number rounded for display."""
    return None if value is None else f"{value:.{decimals}f}"


def print_figures(screen: Console, title: str, figures: Mapping[str, str | None]) -> None:
    """Print a title and a table of metrics by name; those without a value are left out."""
    rows = [(name, value) for name, value in figures.items() if value is not None]
    print_text(screen, title)
    print_block(screen, Block.of(("", ""), rows), texts=[0])


def print_reused(screen: Console, result: RunResult, message: str) -> None:
    """Print that a finished run is reused, and which plug-ins have changed since."""
    if result.reused:
        screen.print(message, highlight=False)
        for module in result.changed:
            print_line(screen, f"The plug-in {module} has changed since this run was made: force=true runs it again.")


def print_result(screen: Console, result: RunResult) -> None:
    """Print the short table at the end of a run, and its folder."""
    record, metrics = result.record, result.record.metrics
    figures = {
        **{
            metric.label: rounded(getattr(metrics, name), metric.decimals)
            for name, metric in METRICS.items()
            if hasattr(metrics, name)
        },
        "teacher's test top-1 (%)": rounded(record.teacher.accuracy if record.teacher else None, 2),
        "seconds": rounded(record.duration_s, 1),
        "identity": short(record.identity),
    }
    print_figures(screen, f"{record.variant}, seed {record.seed} ({record.pair})", figures)
    print_line(screen, f"folder: {result.folder}")


def result_line(result: RunResult) -> str:
    """Return one line for a run of a suite or sweep."""
    record = result.record
    changed = "".join(f"; plug-in {module} has changed since" for module in result.changed)
    again = f" (already finished{changed})" if result.reused else f" in {record.duration_s:.0f} s"
    return f"{record.variant} seed {record.seed}: test {rounded(record.metrics.test_top1_last, 2)} %{again}"
