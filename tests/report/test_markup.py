"""Tables as text: marks, Markdown, LaTeX, and the files they are written to."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from graphkd.errors import UserError
from graphkd.report.markup import Block, Cell, Table, fixed, marks, spread, visible, write_tables
from graphkd.report.statistics import Summary, summarise


def a_table(name: str, *blocks: Block, notes: tuple[str, ...] = ()) -> Table:
    """A table of any name."""
    blocks = blocks or (Block(("variant", "x"), ((Cell(name), Cell("1")),)),)
    return Table(name, name, "", blocks, "a legend", pd.DataFrame({"variant": [name]}), notes)


@pytest.mark.parametrize(
    ("means", "best", "expected"),
    [
        ([1.0, 3.0, 2.0], "max", [None, "best", "second"]),
        ([1.0, 3.0, 2.0], "min", ["best", None, "second"]),
        ([3.0, 3.0, 2.0, 1.0], "max", ["best", "best", "second", None]),
        ([3.0, 2.0, 2.0], "max", ["best", "second", "second"]),
        ([3.0, 3.0], "max", ["best", "best"]),
        ([3.0, 3.0 + 1e-14, 2.0], "max", ["best", "best", "second"]),
        ([math.nan, 1.0, 2.0], "max", [None, "second", "best"]),
        ([math.nan, 1.0], "max", [None, None]),
        ([1.0, 2.0], None, [None, None]),
        ([], "max", []),
    ],
)
def test_the_two_best_are_marked(means: list[float], best: str | None, expected: list[str | None]) -> None:
    assert marks(means, best) == expected  # type: ignore[arg-type]


def test_figures_as_they_are_printed() -> None:
    assert spread(summarise([1.0, 2.0, 3.0]), 3, 2) == "2.00 ± 1.00"
    assert spread(summarise([1.0, 2.0, 3.0]), 5, 2) == "2.00 ± 1.00 (n=3)"
    assert spread(Summary(2.0, math.nan, math.nan, 1), 1, 2) == "2.00 ± —"
    assert spread(summarise([]), 3, 2) == "—"
    assert [fixed(value, 1, "+") for value in (1.25, -1.26, math.nan)] == ["+1.2", "-1.3", "—"]


TWO = a_table(
    "study_1",
    Block(("method", "a->b (%)"), ((Cell("kd"), Cell("73.55 ± 0.20", "best")), (Cell("[x]"), Cell("-1.00", "second")))),
    Block(("method",), ((Cell("a & b"),),), "Seconds"),
    notes=("50 % of {x}",),
)


def test_markdown_shows_every_block() -> None:
    assert TWO.markdown() == (
        "### study_1\n\n| method | a->b (%) |\n| :-- | --: |\n| kd | **73.55 ± 0.20** |\n"
        "| \\[x\\] | <u>-1.00</u> |\n\n"
        "#### Seconds\n\n| method |\n| :-- |\n| a & b |\n\na legend\n\n- 50 % of {x}\n"
    )


FIT = r"\begin{adjustbox}{max width=\linewidth}"


def test_latex_shows_every_block() -> None:
    assert TWO.latex().splitlines() == [
        r"% \usepackage{booktabs,adjustbox}", r"\begin{table}", r"\centering", r"\caption{study\_1.}",
        r"\par\medskip",
        FIT, r"\begin{tabular}{lr}", r"\toprule", r"method & a$\rightarrow$b (\%) \\", r"\midrule",
        r"kd & \textbf{73.55 $\pm$ 0.20} \\", r"{[}x{]} & \underline{$-$1.00} \\", r"\bottomrule", r"\end{tabular}",
        r"\end{adjustbox}", r"\par\medskip Seconds\par",
        FIT, r"\begin{tabular}{l}", r"\toprule", r"method \\", r"\midrule", r"a \& b \\", r"\bottomrule",
        r"\end{tabular}", r"\end{adjustbox}",
        r"\par\smallskip\footnotesize a legend", r"\par\smallskip\footnotesize 50 \% of \{x\}", r"\end{table}",
    ]  # fmt: skip


def test_long_headings_are_broken_in_latex() -> None:
    block = Block.of(("variant of the student", "difference to kd_equal, test top-1 (%)", "95 % interval"), [])
    (head,) = [line for line in dataclasses.replace(TWO, blocks=(block,)).latex().splitlines() if "variant" in line]
    assert head == (
        r"\shortstack[l]{variant of the\\student} & \shortstack[r]{difference to\\kd\_equal, test\\top-1 (\%)} "
        r"& 95 \% interval \\"
    )


printable = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=200)


@given(printable | st.deferred(lambda: anything))
@example("a--b---c-->d `e` \n \x1b")
def test_no_name_breaks_latex(name: str) -> None:
    text = a_table(name).latex()
    (row,) = [line for line in text.splitlines() if line.endswith(r"& 1 \\")]
    bare = re.sub(r"\\[{}$&#%_]", "", row)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert bare.count("&") == 1
    assert not re.search(r"[#%_^~<>|`]|--(?!-)", bare.replace("---", ""))
    assert not row.startswith(("[", "*"))


NAMES = [
    "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", " =1", "\uff1d1", "\r=1", "\n=1",
    "-", "- x", "1. x", "#1 x#", "a #", "> x",
    "[x](javascript:alert(1))", "![x](http://x.y/z.png)", "[x]: http://x.y", "<http://x.y>", "http://x.y", "www.x.y",
    "__b__", "_i_", "a_b", "**b**", "*i*", "`c`", "~~s~~", "<b>x</b>", "<!-- x", "&lt;b&gt;", "&#60;",
    "a | b", "\\|", "\\", "$x^2$",
    "=====", "---", "-->", "--", "a--b", "```", "    code", "\x1b[31mred", "a\nb", "\u202eabc", "{}[]", "100%", "!",
]  # fmt: skip
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50) | st.text(
    "=+-@_*[]()<>!#|`~&\\$:/.wx1 \n", max_size=20
)
anything = (st.sampled_from(NAMES) | texts).filter(lambda text: bool(text.strip()))


def tokens(text: str) -> list[Token]:
    """What a reader of GitHub's Markdown finds, those inside a line too."""
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return [inner for token in reader.parse(text) for inner in (token, *(token.children or []))]


def plain(text: str) -> str:
    """A name as a page shows it, where spaces in a row are one."""
    return " ".join(visible(text).split())


@given(anything, anything)
def test_a_name_in_markdown_is_nothing_but_its_text(name: str, note: str) -> None:
    table = Table("t", f"of {name}", name, (Block((name, "x"), ((Cell(name, "best"), Cell("-1.00")),), name),), name,
                  pd.DataFrame(), (note,))  # fmt: skip
    found = tokens(table.markdown())
    kinds = {token.type for token in found if token.type not in ("text", "inline")}
    markup = {"heading", "paragraph", "table", "thead", "tbody", "tr", "th", "td", "strong", "bullet_list", "list_item"}
    assert kinds <= {f"{kind}_{end}" for kind in markup for end in ("open", "close")}
    blocks = [
        "".join(inner.content for inner in token.children or [] if inner.type == "text")
        for token in found if token.type == "inline"
    ]  # fmt: skip
    shown = [f"of {name}", name, name, name, "x", name, "-1.00", name, note]
    assert [" ".join(block.split()) for block in blocks if block.strip()] == [t for t in map(plain, shown) if t]
    assert len([token for token in found if token.type == "strong_open"]) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_every_wicked_name_is_nothing_but_its_text(name: str) -> None:
    test_a_name_in_markdown_is_nothing_but_its_text.hypothesis.inner_test(name, name)  # type: ignore[attr-defined]


@given(st.lists(anything, min_size=1, max_size=3))
@example(NAMES)
def test_a_text_in_csv_is_no_formula_and_comes_back(names: list[str]) -> None:
    header = f"{names[0]} mean"
    frame = pd.DataFrame({"variant": names, header: [-1.5] * len(names), "n": [-2] * len(names)})
    text = Table("t", "t", "", (), "", frame, ()).csv()
    back = pd.read_csv(io.StringIO(text), keep_default_na=False, dtype={"variant": str}, lineterminator="\n")
    for name, cell in zip([*names, header], [*back["variant"], back.columns[1]], strict=True):
        assert not re.match(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]", cell)
        assert cell in (name, f"'{name}")
        assert cell == name or re.match(r"\s*[^\w\s]|[\t\r\n]", name)
    assert (back.iloc[:, 1] == -1.5).all()
    assert (back["n"] == -2).all()


def test_files_hold_the_tables(tmp_path: Path) -> None:
    tables = [a_table("suite_large->small"), a_table("two_large->small")]
    paths = write_tables(tables, tmp_path / "new" / "tables")
    assert [path.name for path in paths] == [
        "suite_large-small.csv", "suite_large-small.md", "suite_large-small.tex",
        "two_large-small.csv", "two_large-small.md", "two_large-small.tex",
    ]  # fmt: skip
    assert sorted(os.listdir(tmp_path / "new" / "tables")) == sorted(path.name for path in paths)
    assert paths[0].read_bytes() == tables[0].csv().encode()
    assert paths[4].read_bytes() == tables[1].markdown().encode()
    assert paths[5].read_bytes() == tables[1].latex().encode()


@given(
    names=st.lists(st.sampled_from(["../../x", "/etc/x", "a/b", "a-b", "A-B", "..", ".", "", "~", "C:\\x"]) | printable)
)
def test_no_name_escapes_the_folder_or_overwrites_another(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    paths = write_tables([a_table(name) for name in names], folder)
    assert all(path.parent == folder for path in paths)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.(csv|md|tex)", path.name) for path in paths)
    assert len({path.name.lower() for path in paths}) == len(os.listdir(folder)) == 3 * len(names)
    for name, path in zip(names, paths[::3], strict=True):
        assert path.read_text(encoding="utf-8") == a_table(name).csv()


def test_a_folder_that_cannot_be_made_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the folder .*file/tables cannot be made"):
        write_tables([], tmp_path / "file" / "tables")
