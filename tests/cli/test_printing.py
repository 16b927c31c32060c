"""Tables and lines on screens of every width: no number and no name is cut."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from graphkd.report.markup import Block, Cell
from graphkd_cli import printing

widths = st.integers(40, 400)
names = st.text(st.sampled_from("abcdefgh_+-0123456789.é日😀"), min_size=1, max_size=200)
numbers = st.floats(-1e9, 1e9).map(lambda value: f"{value:.2f} ± {abs(value) / 7:.2f}")
headings = st.lists(st.sampled_from(["test", "top-1,", "last", "epoch", "(%)", "seconds", "n"]), min_size=1, max_size=8)


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """A table as a report has them, its headings told apart by a number."""
    count = draw(st.integers(1, 12))
    header = ("variant", *(f"{' '.join(draw(headings))} #{index}" for index in range(count)))
    rows = draw(st.lists(st.tuples(names, *[numbers] * count), min_size=1, max_size=4))
    return Block(header, tuple(tuple(map(Cell, row)) for row in rows), tail=draw(st.integers(0, count)))


def screen(width: int, is_terminal: bool = True) -> Console:
    """A screen that is kept."""
    if is_terminal:
        return Console(file=io.StringIO(), force_terminal=True, width=width, markup=False, color_system=None)
    return Console(file=io.StringIO(), force_terminal=False, width=printing.UNBOUNDED, markup=False)


def shown(console: Console) -> str:
    """What was printed."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@given(blocks(), widths)
def test_a_table_of_any_width_cuts_nothing(block: Block, width: int) -> None:
    console = screen(width)
    printing.print_block(console, block)
    out = shown(console)
    assert "…" not in out
    table, _, rest = out.partition("columns that do not fit: ")
    missing = [heading for heading in block.header if heading.rpartition("#")[2] in re.findall(r"#(\d+)", rest)]
    assert all(cell_len(line) <= width for line in table.splitlines() if line[:1] in "┏┃┡│└")
    is_table = table.startswith("┏")
    assert is_table or not missing
    for row in block.rows():
        assert row[0] in table, "a name stands in one piece"
        for heading, cell in list(zip(block.header, row, strict=True))[1:]:
            assert cell in table or heading in missing
    assert "a wider terminal shows them" in " ".join(rest.split()) or not missing


@given(blocks(), st.integers(1, 39))
def test_even_a_narrower_screen_has_all_numbers(block: Block, width: int) -> None:
    console = screen(width)
    printing.print_block(console, block)
    table, _, rest = shown(console).partition("columns")
    assert rest or all(cell in table for row in block.rows() for cell in row)
    assert all(row[0] in table for row in block.rows())


@given(blocks())
def test_without_a_terminal_every_column_is_there(block: Block) -> None:
    console = screen(0, is_terminal=False)
    printing.print_block(console, block)
    assert all(cell in shown(console) for row in block.rows() for cell in row)
    assert "left out" not in shown(console)


def test_what_is_left_out_is_said_and_the_tests_of_a_baseline_stay() -> None:
    header = ("variant", "n", "top-1 (%)", "top-5 (%)", "seconds per step", "difference", "p")
    row = ("hkd", "3", "97.50 ± 0.31", "99.90 ± 0.01", "0.0123 ± 0.0004", "+1.25", "0.031")
    console = screen(60)
    printing.print_block(console, Block(header, (tuple(map(Cell, row)),), tail=2), elsewhere="--out DIR")
    out = shown(console)
    assert [cell in out for cell in row] == [True, True, True, False, False, True, True]
    assert out.splitlines()[-2:] == [
        "columns that do not fit: top-5 (%); seconds per step (--out",
        "DIR or a wider terminal shows them)",
    ]


def test_texts_break_between_words_and_long_names_become_paragraphs() -> None:
    block = Block(
        ("name", "what it is", "options"), (tuple(map(Cell, ("knn", "nearest neighbours " * 5, "k (8)\nm"))),)
    )
    console = screen(40)
    printing.print_block(console, block, texts=[1, 2])
    assert shown(console).count("neighbours") == 5
    console = screen(40)
    printing.print_block(console, Block(("variant", "n", "top-1"), ((Cell("x" * 200), Cell("3"), Cell("97.5 ± 0.3")),)))
    assert shown(console).splitlines() == ["x" * 200, "  n: 3", "  top-1: 97.5 ± 0.3"]


def test_nothing_reaches_the_terminal_but_text() -> None:
    evil = "\x1b[31mred\x1b]0;title\x07 [red]x :tada: \u202eabc\u200b\r\n"
    safe = r"\x1b[31mred\x1b]0;title\x07 [red]x :tada: \u202eabc\u200b\r\n"
    for width in (40, 200):
        console = screen(width)
        printing.print_line(console, evil)
        assert shown(console) == f"{safe}\n"
        printing.print_text(console, evil)
        printing.print_block(console, Block((evil, evil, evil), ((Cell(evil), Cell(evil), Cell(evil)),)))
        assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e\u200b🎉]", re.sub(r"\x1b\[[0-9;]*m", "", shown(console)))


def test_sentences_break_between_words_but_paths_nowhere() -> None:
    console = screen(40)
    printing.print_text(console, f"teachers differ between rows: {'y' * 60} and 97.50 %")
    assert shown(console).splitlines() == ["teachers differ between rows:", "y" * 60, "and 97.50 %"]
    console = screen(40)
    printing.print_line(console, f"folder: my results/{'y' * 60}/seed 0")
    assert shown(console) == f"folder: my results/{'y' * 60}/seed 0\n"


@pytest.mark.parametrize("width", [40, 60, 80, 400])
def test_figures_stand_beside_their_names(width: int) -> None:
    console = screen(width)
    printing.print_figures(
        console, "hkd, seed 0", {"test top-1, best epoch (%, chosen on test)": "97.50", "none": None}
    )
    assert "│ 97.50 │" in shown(console)
    assert "chosen" in shown(console)
    assert "none" not in shown(console)
