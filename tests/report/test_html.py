"""The HTML page: what is in it, that no name can change it, and that a browser shows, sorts and filters it."""

from __future__ import annotations

import base64
import csv
import dataclasses
import gzip
import html
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from test_record import make_record

from graphkd.errors import UserError
from graphkd.report.grid import build_grids
from graphkd.report.grid_spec import GridSpec
from graphkd.report.html import view, write_page
from graphkd.report.load import Loaded, load_records
from graphkd.report.markup import Block
from graphkd.report.record import Code, write
from graphkd.report.sections import Cost, Studies
from graphkd.report.tables import TableSpec, build_tables

SPEC = TableSpec("default", ("test_top1_last", "seconds_per_step"))
HOSTILE = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "=cmd|'/c calc'!A1",
    "{{ 7 * 7 }}{% raw %}", "&lt;b&gt; </script><!--", "%{x} $x$ <b>bold</b><br>", "| a | `b` *c* [d](e) \\end{table}",
    "@SUM(1)", "+1+1", "-2+3",
]  # fmt: skip
VOID = {"meta", "link", "input", "br", "line", "path"}


def put(folder: Path, *, epochs: int = 3, config: str = "k: 8\n", **changes: Any) -> None:
    """Writes the folder of a run with a log."""
    record = make_record(**changes)
    place = folder / record.study / record.identity[:60].replace("/", "-") / f"seed-{record.seed}"
    place.mkdir(parents=True)
    write(record, place / "record.json")
    (place / "config.yaml").write_text(config)
    accuracy = record.metrics.test_top1_last or 0.0
    lines = [
        {
            "epoch": epoch, "test": {"top1": accuracy - epochs + epoch}, "terms": {"ce": {"raw": 1 / epoch}},
            "stage": None, "diagnostics": {"hkd.teacher_homophily": 0.5},
        }
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def put_rows(folder: Path, variants: list[str], pairs: tuple[str, ...] = ("large->small",), seeds: int = 2) -> None:
    """Writes runs of these variants on these pairs; the later variant is the better one."""
    for pair in pairs:
        for place, variant in enumerate(variants):
            for seed in range(seeds):
                put(
                    folder, variant=variant, pair=pair, identity=f"{pair}-{place}", seed=seed, data="digits",
                    test_top1_last=50.0 + 2 * place + seed + len(pair), seconds_per_step=0.01 * (place + 1),
                    teacher_homophily=0.1 * place, config=f"k: {place}\nlr: 0.1\nstudent: {json.dumps(pair)}\n",
                )  # fmt: skip


def write_to(folder: Path, **options: Any) -> str:
    """Writes the page of a results folder beside its runs and returns it."""
    return write_page(load_records(folder), folder / "tables", SPEC, **options).read_text()


def figures(page: str) -> list[dict[str, Any]]:
    """The figures of a page."""
    found = re.search(r'id="figures">([^<]*)<', page)
    assert found
    content: list[dict[str, Any]] = json.loads(gzip.decompress(base64.b64decode(found[1])))
    return content


@dataclass
class Tree(HTMLParser):
    """Reads a page: elements with their attributes, texts outside of scripts, and whether all that opens is closed."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        if tag not in VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.opened and self.opened[-1] not in ("script", "style"):
            self.texts.append(data.strip())


def read(page: str) -> Tree:
    """Reads a page, which must be well formed."""
    tree = Tree()
    tree.feed(page)
    tree.close()
    assert tree.opened == []
    return tree


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    put_rows(tmp_path, ["ce", "kd", "hkd"], ("large->small", "wide->thin1"))
    put(tmp_path, kind="teacher", variant="large", identity="teacher")
    tree = read(write_to(tmp_path))
    for tag, attributes in tree.elements:
        assert "src" not in attributes
        assert tag not in ("iframe", "object", "embed", "base")
        link = attributes.get("href") or "#"
        assert link.startswith(("#", "../")) or (tag, link) == ("link", "data:,")
    texts = set(tree.texts)
    assert {"suite on digits: all pairs", "suite, large->small on digits", "Teachers", "Contents"} <= texts
    assert {"Accuracy of every seed", "Accuracy against cost", "By epoch", "Options that differ"} <= texts


def test_one_variant_on_two_pairs_has_nothing_to_say_over_them(tmp_path: Path) -> None:
    put_rows(tmp_path, ["kd"], ("large->small", "wide->thin"))
    assert not [text for text in read(write_to(tmp_path)).texts if "all pairs" in text]


def test_links_lead_to_the_folders_of_runs(tmp_path: Path) -> None:
    put_rows(tmp_path / "a b#c?", ["ce", "kd"])
    page = write_page(load_records(tmp_path), tmp_path / "else where" / "deep", SPEC)
    links = [str(attributes["href"]) for tag, attributes in read(page.read_text()).elements if tag == "a"]
    assert len(links) == 4
    assert all((page.parent / unquote(link) / "record.json").is_file() for link in links)


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    put_rows(tmp_path, ["ce", "kd"], ("large->small", "wide->thin1"))
    assert write_to(tmp_path) == write_to(tmp_path)


def test_one_run_makes_a_page(tmp_path: Path) -> None:
    put(tmp_path, epochs=1)
    page = write_to(tmp_path)
    tree = read(page)
    assert "1 run of students; graphkd 0.1.0" in tree.texts
    assert "Options that differ" not in tree.texts
    assert figures(page)


def test_old_bare_and_unfinished_runs_do(tmp_path: Path) -> None:
    put_rows(tmp_path, ["ce", "kd"])
    put(tmp_path, identity="failed", variant="hkd", status="failed", error="loss is NaN at <epoch> 3", data="digits")
    for name in ("config.yaml", "metrics.jsonl"):
        for path in tmp_path.rglob(name):
            path.unlink()
    for path in tmp_path.rglob("record.json"):
        document = json.loads(path.read_text())
        del document["phases"], document["group_size"], document["metrics"]["diagnostics"]
        path.write_text(json.dumps(document))
    tree = read(write_to(tmp_path))
    assert "failed: loss is NaN at <epoch> 3" in tree.texts
    assert "By epoch" not in tree.texts
    assert any("left out: 1 failed run" in text for text in tree.texts)


def test_no_finished_run_still_makes_a_page(tmp_path: Path) -> None:
    put(tmp_path, status="running")
    assert figures(write_to(tmp_path)) == []


def test_hostile_names_stay_names(tmp_path: Path) -> None:
    put_rows(tmp_path / "plain", ["ce", "kd"], ("large->small", "wide->thin1"))
    put_rows(tmp_path / "hostile", HOSTILE, (HOSTILE[0], HOSTILE[1]))
    for place, name in enumerate(HOSTILE):
        put(
            tmp_path / "hostile", variant=name, study=name.replace("/", "-"), identity=f"id{place}", data=name,
            config=f"{json.dumps(name)}: {json.dumps(name)}\n", error=name, device=name,
            code=Code(name, name[:9], False),
        )  # fmt: skip
    plain, page = read(write_to(tmp_path / "plain")), write_to(tmp_path / "hostile")
    tree = read(page)
    assert {tag for tag, _ in tree.elements} == {tag for tag, _ in plain.elements}
    assert sum(tag == "script" for tag, _ in tree.elements) == 3
    assert not any(name.startswith("on") for _, attributes in tree.elements for name in attributes)
    for name in HOSTILE:
        assert name in tree.texts
        assert any(attributes.get("data-label") == name for _, attributes in tree.elements)
    drawn = [trace["name"] for figure in figures(page) for trace in figure["data"] if "name" in trace]
    assert {html.unescape(name) for name in drawn} == set(HOSTILE)
    assert not any("<" in name or "$" in name for name in drawn)


def test_hostile_names_are_inert_in_the_other_files_too(tmp_path: Path) -> None:
    put_rows(tmp_path, HOSTILE)
    (table,) = build_tables(load_records(tmp_path).records, SPEC)
    cells = {row["variant"] for row in csv.DictReader(table.csv().splitlines())}
    assert cells == {f"'{name}" if name.startswith(("=", "+", "-", "@")) else name for name in HOSTILE}
    assert "<script>" not in table.markdown().replace("\\<", "")
    assert "\\end{table} " not in table.latex().removesuffix("\\end{table}\n")


def test_numbers_are_no_formulas(tmp_path: Path) -> None:
    put_rows(tmp_path, ["ce", "kd"])
    spec = TableSpec("default", ("test_top1_last",), baseline="kd")
    (table,) = build_tables(load_records(tmp_path).records, spec)
    assert ",-2.0," in table.csv()


def test_figures_are_plotlys(tmp_path: Path) -> None:
    from plotly.graph_objects import Figure

    put_rows(tmp_path, ["ce", "kd", "hkd"], ("large->small", "wide->thin1"))
    drawn = figures(write_to(tmp_path, cost_of=lambda folder: Cost(1000 + len(folder), 7)))
    for figure in drawn:
        Figure(figure)
    assert all(trace["meta"] in ("ce", "kd", "hkd") for figure in drawn for trace in figure["data"])


def test_students_of_each_size_are_counted_once(tmp_path: Path) -> None:
    put_rows(tmp_path, ["ce", "kd"], ("large->small",))
    asked: list[str] = []

    def cost_of(folder: str) -> Cost:
        asked.append(folder)
        return Cost(100 * len(asked), 1)

    write_to(tmp_path, cost_of=cost_of)
    assert asked == [], "all students are the same"
    put_rows(tmp_path / "more", ["ce", "kd"], ("wide->thin1",))
    tree = read(write_to(tmp_path, cost_of=cost_of))
    assert len(asked) == 2
    assert "parameters of the student" in tree.texts
    assert "multiply-adds per image" not in tree.texts, "they are the same"
    assert "Accuracy against size" not in read(write_to(tmp_path)).texts


def test_baselines_orders_and_grids_are_those_of_suites(tmp_path: Path) -> None:
    put_rows(tmp_path, ["ce", "kd", "hkd"], ("large->small", "wide->thin1"))
    grid = GridSpec("grid", "grid", None, (), {"ce": "Student"}, target="ce", student="ce")
    tables = build_grids(load_records(tmp_path).records, grid)
    order = {"another": ["ce", "kd"], "suite": ["kd", "hkd", "ce"]}
    studies = Studies(order, baselines={"suite": "kd"}, grids={"suite": tables})
    tree = read(write_to(tmp_path, studies=studies))
    assert "ARI (%)" in tree.texts
    assert "difference to kd, test top-1, last epoch (%)" in tree.texts
    labels = [
        attributes["data-label"] for tag, attributes in tree.elements if tag == "label" and attributes.get("data-label")
    ]
    assert labels[-3:] == ["kd", "hkd", "ce"]


def test_columns_of_numbers_are_sorted_as_numbers() -> None:
    block = Block.of(
        ("variant", "mean", "interval", "p", "options", "test"),
        [("1", "10.5 ± 0.1 (n=2)", "[-1.5, 2.0]", "< 0.001", "8", "paired t, n=2"), ("2", "—", "—", "0.5", "8x", "—")],
    )
    columns, rows = view(block)
    assert [column.is_number for column in columns] == [False, True, True, True, False, False]
    assert [entry.key for entry in rows[0]] == ["1", "10.5", "-1.5", "0.001", "8", "paired t, n=2"]


def test_a_table_keeps_its_marks_and_notes(tmp_path: Path) -> None:
    put_rows(tmp_path, ["ce", "kd", "hkd"])
    page = write_to(tmp_path)
    assert re.search(r"<strong>66\.50 ± 0\.71</strong>", page)
    assert re.search(r"<u>64\.50 ± 0\.71</u>", page)
    assert any("fewer than 3 seeds" in text for text in read(page).texts)


@pytest.mark.slow
def test_two_thousand_runs_fit_in_ten_megabytes(tmp_path: Path) -> None:
    put_rows(tmp_path, [f"variant {place}" for place in range(20)], seeds=1)
    for log in tmp_path.rglob("metrics.jsonl"):
        line = json.loads(log.read_text().splitlines()[0])
        line["terms"] |= {f"term{place}": {"raw": 1.23456 * place} for place in range(12)}
        log.write_text("".join(json.dumps(line | {"epoch": epoch, "total": epoch**0.3}) + "\n" for epoch in range(40)))
    few = load_records(tmp_path)
    records, folders = [], []
    for pair in range(100):
        for record, folder in zip(few.records, few.folders, strict=True):
            records.append(dataclasses.replace(record, pair=f"pair {pair:03d}"))
            folders.append(folder)
    path = write_page(Loaded(records, [], folders), tmp_path, SPEC)
    assert path.stat().st_size < 10e6
    longest = max(len(trace["x"]) for figure in figures(path.read_text()) for trace in figure["data"])
    assert longest < 40, "of a band, there and back"


def test_a_file_in_the_way_is_the_users_mistake(tmp_path: Path) -> None:
    put(tmp_path)
    (tmp_path / "tables").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        write_to(tmp_path)


# In a browser


Open = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium; tests are skipped where there is none, or no Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two pairs with hostile and plain names."""
    folder = tmp_path_factory.mktemp("shown")
    put_rows(folder, ["ce", "kd", "hkd", *HOSTILE], ("large->small", "wide->thin1"))
    return write_page(load_records(folder), folder / "tables", SPEC, Studies(baselines={"suite": "kd"}))


@pytest.fixture
def visit(chromium: Any, shown: Path) -> Iterator[Open]:
    """Opens the page and waits until it is ready; no test may see an error or a request to elsewhere."""
    pages, wrong = [], []

    def open_page(width: int = 1600, scheme: str = "light") -> Any:
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
        page.goto(shown.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert wrong == []


DRAWN = "[...document.querySelectorAll('.plot')].filter((plot) => plot.querySelector('.main-svg')).length"


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1600, "light")])
def test_charts_are_drawn_as_they_come_into_view_and_nothing_is_wider_than_the_screen(
    visit: Open, width: int, scheme: str
) -> None:
    page = visit(width, scheme)
    number = page.locator(".plot").count()
    assert page.evaluate(DRAWN) < number
    page.locator(".plot").last.scroll_into_view_if_needed()
    page.wait_for_function("(plot) => plot.querySelector('.main-svg')", arg=page.locator(".plot").last.element_handle())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    colours = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('.xtick text')).fill]"
    )
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in colours]
    assert abs(brightness[0] - brightness[1]) > 0.7
    assert (brightness[0] > 0.5) == (scheme == "light")


@pytest.mark.browser
def test_a_click_sorts_and_another_turns_it_round(visit: Open) -> None:
    page = visit()
    table = page.locator("section table").nth(1)
    first = "(table) => [...table.tBodies[0].rows].map((row) => row.cells[2].textContent.trim())"
    before = table.evaluate(first)
    table.locator("thead button").nth(2).click()
    ascending = table.evaluate(first)
    assert ascending == sorted(before, key=lambda text: float(text.split()[0]))
    table.locator("thead button").nth(2).click()
    assert table.evaluate(first) == ascending[::-1]
    table.locator("thead button").first.click()
    names = table.evaluate("(table) => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim())")
    assert names.index("ce") < names.index("hkd") < names.index("kd")


@pytest.mark.browser
def test_words_and_boxes_choose_what_is_shown(visit: Open) -> None:
    page = visit()
    page.locator("#filter").fill("thin1 KD")
    assert page.locator("section:visible").count() == 1
    assert page.locator("section:visible table >> nth=0").locator("tbody tr:visible").count() == 2
    plot = page.locator("section:visible .plot").first
    plot.scroll_into_view_if_needed()
    page.wait_for_function("(plot) => plot.data", arg=plot.element_handle())
    meta = "(plot) => [...new Set(plot.data.filter((trace) => trace.visible !== false).map((trace) => trace.meta))]"
    assert plot.evaluate(meta) == ["hkd", "kd"]
    assert page.locator("#matches").text_content() == "2 found"
    page.locator("section").nth(2).locator(".legend label[data-label=kd] input").uncheck()
    assert plot.evaluate(meta) == ["hkd"]
    page.locator("#filter").fill("")
    assert page.locator("section:visible").count() == 3
    assert page.locator("section tr[data-label=kd]:visible").count() > 0
    section = page.locator("section").nth(2)
    section.locator("button[data-all='']").click()
    assert section.locator("table:not(.columns) tbody tr:visible").count() == 0


@pytest.mark.browser
def test_on_paper_every_chart_is_drawn(visit: Open, tmp_path: Path) -> None:
    page = visit()
    number = page.locator(".plot").count()
    assert page.evaluate(DRAWN) < number
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    assert page.evaluate(DRAWN) == number
