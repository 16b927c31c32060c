from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from commands import Command, OwnConfigs, students, top

from graphkd.ablation import Suite
from graphkd.report import record as records
from graphkd_cli.main import main
from graphkd_cli.report import _split
from graphkd_cli.studies import write_study


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_words: list[str]) -> Path:
    """Two variants of two seeds, and a teacher."""
    place = tmp_path_factory.mktemp("finished")
    for objective in ("kd", "ce"):
        words = ["run", "-m", f"objective={objective}", "seed=0,1", f"results={place}", "--jobs", "1", *tiny_words]
        assert main(words) == 0
    return place


@pytest.fixture
def results(finished: Path, folder: Path) -> Path:
    """The same in a folder of the test's own."""
    return Path(shutil.copytree(finished, folder / "results"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_aggregates_over_seeds_and_writes_each_table(command: Command, folder: Path, results: Path) -> None:
    code, out, err = command("report", "results/")
    assert (code, err) == (0, "")
    (table,) = (results / "tables").glob("*.csv")
    suffixes = (".csv", ".md", ".png", ".svg", ".tex")
    assert top(results / "tables") == {table.with_suffix(suffix).name for suffix in suffixes}
    assert f"written: results/tables/{table.name}" in out
    found = {row["variant"]: row for row in rows(table)}
    assert found.keys() == {"ce", "ce+kd"}
    for variant, row in found.items():
        values = [r.metrics.test_top1_last or 0 for r in students(folder).values() if r.variant == variant]
        mean = sum(values) / 2
        assert float(row["test_top1_last_mean"]) == pytest.approx(mean)
        assert f"{mean:.2f} ± " in out


def test_writes_where_it_is_told(command: Command, folder: Path, results: Path) -> None:
    assert command("report", "--out", "elsewhere").code == 0
    assert {path.suffix for path in (folder / "elsewhere").iterdir()} == {".csv", ".md", ".png", ".svg", ".tex"}
    assert not (results / "tables").exists()


@pytest.mark.parametrize("layout", [[], ["--profile"]])
def test_some_rows_of_a_study(command: Command, folder: Path, results: Path, layout: list[str]) -> None:
    code, out, _ = command("report", "--variants", "ce", "--out", "elsewhere", *layout)
    assert code == 0
    assert "rows were chosen by --variants" in out
    (table,) = (folder / "elsewhere").glob("*.csv")
    assert {row["variant"] for row in rows(table)} == {"ce"}


def test_p_values_are_corrected_for_the_rows_that_are_asked_for(command: Command, folder: Path, results: Path) -> None:
    for place in sorted(results.rglob("record.json")):  # a third variant
        record = records.read(place)
        if record.variant == "ce+kd":
            target = Path(shutil.copytree(place.parent, results / "third" / place.parent.name)) / "record.json"
            records.write(dataclasses.replace(record, variant="third"), target)
    for words, number in (([], 2), (["--variants", "third,ce"], 1)):
        assert command("report", "--baseline", "ce", *words).code == 0
        (table,) = (results / "tables" / ("chosen" if words else "")).glob("*.md")
        assert f"number of comparisons: {number};" in table.read_text()


def test_rows_are_chosen_by_their_labels_too(command: Command, folder: Path, results: Path) -> None:
    """A label tells rows of one variant apart, with commas inside its parentheses."""
    assert command("report").code == 0
    (before,) = (results / "tables").glob("*.csv")
    whole = before.read_bytes()
    for place in sorted(results.rglob("record.json")):
        record = records.read(place)
        if record.variant == "ce+kd" and record.kind == "student":
            target = Path(shutil.copytree(place.parent, results / "third" / place.parent.name)) / "record.json"
            varied = {"builder.k": "4", "seed": "0", "trainer.lr": "0.1"}
            records.write(dataclasses.replace(record, identity="f" * 64, varied=varied), target)
    assert command("report").code == 0
    labels = {row["label"] for row in rows(before)}
    (label,) = [label for label in labels if "builder.k=4" in label]
    assert "," in label
    assert command("report", "--variants", f"ce,{label}").code == 0
    (chosen,) = (results / "tables" / "chosen").glob("*.csv")
    wanted = {row["identity"] for row in rows(before) if row["label"] in ("ce", label)}
    assert {row["identity"] for row in rows(chosen)} == wanted
    assert before.read_bytes() != whole
    assert len(rows(before)) == 3, "the table of all rows stays"


SUITE = """\
description: kept
seeds: [0, 1]
base: []
variants: {ce: [objective=ce], ce+kd: [objective=kd]}
baseline: ce
table: of_another_folder
"""


@pytest.mark.parametrize("stray", [False, True])
def test_a_kept_suite_gives_baseline_and_order(command: Command, folder: Path, results: Path, stray: bool) -> None:
    """Also if one run of the study lies elsewhere, and if its layout is not found."""
    (results / "adhoc" / "suite.yaml").write_text(SUITE)
    if stray:
        place = next(place for place, record in students(folder).items() if record.variant == "ce+kd")
        shutil.move(place, results / "run")
    code, _, err = command("report", "--html")
    assert (code, err) == (0, "")
    (table,) = (results / "tables").glob("*.csv")
    assert [(row["variant"], row["baseline"]) for row in rows(table)] == [("ce", "ce"), ("ce+kd", "ce")]
    assert (results / "tables" / "report.html").exists()


@pytest.mark.parametrize("content", ["", "3", "[1]", "variants: {}", "a: ["])
def test_a_kept_suite_that_cannot_be_read_is_told(command: Command, folder: Path, results: Path, content: str) -> None:
    (results / "adhoc" / "suite.yaml").write_text(content)
    code, _, err = command("report")
    assert code == 0
    assert err.startswith("the order of 'adhoc' is unknown: ")
    assert err.count("\n") == 1


def test_a_folder_of_one_run_has_a_report(command: Command, folder: Path, results: Path) -> None:
    place = next(iter(students(folder)))
    shutil.move(place, folder / "run")
    assert command("report", "run").code == 0


@pytest.mark.parametrize(("text", "names"), [
    ("a,b", ["a", "b"]), ("a,c)", ["a", "c)"]), ("kd (x=1, y=f(2)),a", ["kd (x=1, y=f(2))", "a"]), ("", [""]),
    ("a,nope", ["a", "nope"]), ("(a,b", ["(a", "b"]),
])  # fmt: skip
def test_names_of_rows_may_hold_commas(text: str, names: list[str]) -> None:
    assert list(_split(text, {"a", "b", "c)", "kd (x=1, y=f(2))"})) == names


def test_html_adds_one_page_of_everything(command: Command, folder: Path, results: Path) -> None:
    code, out, err = command("report", "--html", "--baseline", "ce", "--out", "elsewhere")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "written: elsewhere/report.html"
    page = (folder / "elsewhere" / "report.html").read_text()
    assert "difference to ce" in page
    assert "4 runs of students, 1 of teachers" in page
    for place in students(folder):
        assert f'href="../{quote(place.relative_to(folder).as_posix())}/"' in page


def test_the_page_has_the_study_and_the_grid_that_are_asked_for(
    command: Command, results: Path, own_configs: OwnConfigs
) -> None:
    for place in sorted(results.rglob("record.json")):
        record = records.read(place)
        if record.variant == "ce":
            records.write(dataclasses.replace(record, study="other"), place)
    assert command("report", "--study", "other", "--html").code == 0
    page = (results / "tables" / "report.html").read_text()
    assert "other, resnet8-&gt;resnet8" in page
    assert "adhoc, " not in page
    own = own_configs({"table/mine.yaml": GRID})
    assert command("report", "--table", "mine", "--html", "--config-dir", str(own)).code == 0
    page = (results / "tables" / "report.html").read_text()
    assert "adhoc on digits: all pairs" in page
    assert "ARI (%)" in page


def test_the_page_sets_accuracy_against_the_size_of_students_that_can_be_built(
    command: Command, folder: Path, results: Path
) -> None:
    configs = [place / "config.yaml" for place, record in students(folder).items() if record.variant == "ce"]
    for widths, is_shown in ((": [4, 4, 4, 4]", True), (": none", False)):
        for path in configs:
            config = yaml.safe_load(path.read_text())
            config["student"]["widths"] = yaml.safe_load(f"x{widths}")["x"]
            path.write_text(yaml.safe_dump(config))
        assert command("report", "--html").code == 0
        page = (results / "tables" / "report.html").read_text()
        assert ("parameters of the student" in page) == is_shown


def test_a_layout_of_ones_own(command: Command, folder: Path, results: Path, own_configs: OwnConfigs) -> None:
    own = own_configs({"table/short.yaml": "name: short\ncolumns: [test_nll_last]\n"})
    code, out, _ = command("report", "results", "--table", "short", "--config-dir", str(own))
    assert code == 0
    assert "NLL" in out
    assert "test top-1, last" not in out


def test_a_baseline_tests_the_others(command: Command, results: Path) -> None:
    code, out, _ = command("report", "--baseline", "ce")
    assert code == 0
    assert "differences to ce are those of a paired t-test" in out
    found = {row["variant"]: row for row in rows(next((results / "tables").glob("*.csv")))}
    means = {variant: float(row["test_top1_last_mean"]) for variant, row in found.items()}
    assert float(found["ce+kd"]["difference"]) == pytest.approx(means["ce+kd"] - means["ce"])
    assert (found["ce+kd"]["test"], found["ce+kd"]["test_n"], found["ce"]["test"]) == ("paired t", "2", "")


def test_a_baseline_that_nothing_has_is_the_users_mistake(command: Command, results: Path) -> None:
    code, out, err = command("report", "--baseline", "cee")
    assert (code, out) == (2, "")
    assert err == (
        "graphkd: --baseline: no finished run has the variant 'cee'; did you mean 'ce'? (choices: ce, ce+kd)\n"
    )
    assert not (results / "tables").exists()


def test_a_baseline_of_the_layout_may_be_missing(command: Command, results: Path, own_configs: OwnConfigs) -> None:
    own = own_configs({"table/mine.yaml": "name: mine\ncolumns: [test_top1_last]\nbaseline: student\n"})
    code, out, _ = command("report", "--table", "mine", "--config-dir", str(own))
    assert code == 0
    assert "nothing is compared: the baseline 'student' has no finished run here" in out
    code, out, _ = command("report", "--table", "mine", "--baseline", "ce", "--config-dir", str(own))
    assert "difference to ce" in out


GRID = """\
name: mine
layout: grid
study: adhoc
pairs: []
rows: {teacher: Teacher, ce: Student, ce+kd: KD}
target: ce+kd
student: ce
"""


def test_a_grid_of_ones_own(command: Command, results: Path, own_configs: OwnConfigs) -> None:
    code, out, _ = command("report", "--table", "mine", "--config-dir", str(own_configs({"table/mine.yaml": GRID})))
    assert code == 0
    assert "ARI (%)" in out
    assert top(results / "tables") == {f"adhoc_mine.{suffix}" for suffix in ("csv", "md", "tex")}
    assert [row["label"] for row in rows(results / "tables" / "adhoc_mine.csv")] == ["Teacher", "Student", "KD"]


def test_one_study_alone(command: Command, results: Path) -> None:
    for place in sorted(results.rglob("record.json")):
        record = records.read(place)
        if record.variant == "ce":
            records.write(dataclasses.replace(record, study="other"), place)
    assert command("report", "--study", "other").code == 0
    (table,) = (results / "tables").glob("*.csv")
    assert {row["study"] for row in rows(table)} == {"other"}
    assert command("report", "--study", "other", "--table", "table1").code == 0
    assert (results / "tables" / "other_table1.csv").exists()


def test_wrong_words_about_layouts_are_the_users_mistakes(
    command: Command, results: Path, own_configs: OwnConfigs
) -> None:
    own = str(own_configs({"table/a.yaml": "name: a\nlayout: gird\n", "table/mine.yaml": GRID}))
    for words, reason in (
        (
            ["--table", "table1"],
            "table 'table1': there is no finished run of the study 'table1' (choices: adhoc); --study NAME",
        ),
        (["--study", "adhok"], "there is no run of the study 'adhok'; did you mean 'adhoc'? (choices: adhoc)"),
        (["--table", "a"], "table 'a' has no layout 'gird'; did you mean 'grid'? (choices: columns, grid)"),
        (["--table", "mine", "--baseline", "ce"], "--baseline: the table 'mine' is a grid, which has no tests;"),
    ):
        code, _, err = command("report", *words, "--config-dir", own)
        assert (code, len(err.splitlines())) == (2, 1)
        assert err.startswith(f"graphkd: {reason}")


def test_the_layout_of_graphs_has_their_figure(
    command: Command, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphkd.report.graph_figures.FEWEST", 1)
    for place in results.glob("adhoc/**/record.json"):
        record = records.read(place)
        metrics = dataclasses.replace(record.metrics, diagnostics={"hkd.teacher_homophily": 0.5})
        records.write(dataclasses.replace(record, metrics=metrics), place)
    out = command("report", "--table", "graphs").out
    figures = sorted(path.name for path in (results / "tables").glob("*_graphs.png"))
    assert figures
    assert all(name in out for name in figures)


def test_a_study_can_be_written_in_any_layout(
    command: Command, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = {"ce+kd": ["objective=kd"], "ce": ["objective=ce"]}
    suite = Suite("two", seeds=[0], base=[], variants=variants)
    write_study(results, "adhoc", suite)
    (table,) = (results / "tables").glob("*.csv")
    assert [row["variant"] for row in rows(table)] == ["ce+kd", "ce"]
    page = (results / "tables" / "report.html").read_text()
    assert page.index('<label data-label="ce+kd"') < page.index('<label data-label="ce"')
    suite.table = "table1"
    write_study(results, "adhoc", suite)
    assert (results / "tables" / "adhoc_table1.tex").exists()
    assert "ARI (%)" in capsys.readouterr().out


def test_failed_and_unfinished_runs_are_named_once(command: Command, folder: Path, results: Path) -> None:
    places = {record.variant + str(record.seed): place for place, record in students(folder).items()}
    for place, status in ((places["ce0"], "failed"), (places["ce+kd1"], "running")):
        record = records.read(place / "record.json")
        records.write(dataclasses.replace(record, status=status), place / "record.json")  # type: ignore[arg-type]
    code, _, err = command("report")
    assert code == 0
    assert err.splitlines() == [
        "left out: 1 failed run: adhoc/ce seed 0",
        "left out: 1 unfinished run: adhoc/ce+kd seed 1",
    ]
    assert "resnet8 seed 0" not in err, "teachers are in no table anyway"
    assert {row["variant"]: row["n"] for row in rows(next((results / "tables").glob("*.csv")))} == {
        "ce": "1", "ce+kd": "1",
    }  # fmt: skip


def test_broken_and_missing_records_are_named_and_left_out(command: Command, folder: Path, results: Path) -> None:
    broken, missing, *_ = students(folder)
    (broken / "record.json").write_text("{")
    (missing / "record.json").unlink()
    code, _, err = command("report")
    assert code == 0
    assert len(err.splitlines()) == 2
    assert all(line.startswith("left out: ") for line in err.splitlines())
    assert str(broken.relative_to(folder)) in err
    assert str(missing.relative_to(folder)) in err


def test_names_that_look_like_markup_are_shown_as_they_are(
    command: Command, folder: Path, tiny_words: list[str]
) -> None:
    variant = "[red]hot[b] 100% [link=x]"
    answer = command("run", *tiny_words, "objective=ce", f"variant='{variant}'")
    assert answer.code == 0
    assert variant in answer.out
    assert f"│ {variant} " in command("report").out


def test_nothing_to_read_is_the_users_mistake(command: Command, folder: Path) -> None:
    (folder / "results").mkdir()
    code, out, err = command("report")
    assert (code, out) == (2, "")
    assert err == "graphkd: no readable record.json below 'results'\n"
    (folder / "results" / "record.json").write_text(json.dumps({"schema": 99}))
    code, _, err = command("report")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "schema" in err
    assert top(folder / "results") == {"record.json"}
