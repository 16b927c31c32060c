"""Tables: what they show, what they never hide, and the files they become."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_record import make_record

from graphkd.errors import UserError
from graphkd.report.markup import Block, Table
from graphkd.report.metrics import METRICS
from graphkd.report.record import Code, Metrics, Record, Teacher
from graphkd.report.tables import TableSpec, build_tables

CONFIG = Path(__file__).parents[2] / "configs" / "table" / "default.yaml"
DEFAULT = TableSpec.from_mapping(yaml.safe_load(CONFIG.read_text()))
LAST = TableSpec("default", ("test_top1_last",))


def runs(variant: str, accuracies: list[float], **changes: Any) -> list[Record]:
    """Finished runs of one variant with these accuracies, seeds from 0."""
    fields = {"variant": variant, "identity": f"id-{variant}"} | changes
    return [make_record(seed=seed, test_top1_last=value, **fields) for seed, value in enumerate(accuracies)]


def build(records: list[Record], spec: TableSpec = LAST, order: tuple[str, ...] = ()) -> Table:
    """The only table of these records."""
    (table,) = build_tables(records, spec, order)
    return table


def block(table: Table) -> Block:
    """The only block of a table."""
    (found,) = table.blocks
    return found


def cells(table: Table, row: int) -> list[str]:
    """Cells of a row of the Markdown table."""
    lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", lines[2 + row])[1:-1]]


def test_runs_that_trained_together_have_no_peak_memory_of_their_own() -> None:
    spec = TableSpec("default", ("peak_memory_mib",))
    table = build(runs("hkd", [90.0, 92.0]) + runs("kd", [91.0], group_size=2), spec)
    assert [cells(table, row)[2] for row in (0, 1)] == ["512 ± 0", "—"]
    assert table.frame["peak_memory_mib_n"].tolist() == [2, 0]


def test_the_default_table_in_full() -> None:
    values = {"val_top1_best": 96.0, "test_top1_at_best_val": 93.0, "test_top5_last": 99.0}
    records = runs("hkd", [90.0, 92.0, 94.0], **values) + runs("kd", [91.0, 91.0, 91.0], **values)
    table = build(records, DEFAULT)
    assert table.markdown() == (
        "### suite, large->small\n"
        "\n"
        "Teacher: test top-1 97.50 %.\n"
        "\n"
        "| variant | n | test top-1, last epoch (%) | test top-1, at best validation (%) "
        "| test top-1, best epoch, chosen on test (%) | agreement with teacher, last epoch (%) "
        "| test NLL, last epoch | seconds per step | peak memory (MiB) |\n"
        "| :-- | --: | --: | --: | --: | --: | --: | --: | --: |\n"
        "| hkd | 3 | **92.00 ± 2.00** | **93.00 ± 0.00** | **91.00 ± 0.00** | **92.00 ± 0.00** "
        "| **0.3000 ± 0.0000** | 0.0100 ± 0.0000 | 512 ± 0 |\n"
        "| kd | 3 | <u>91.00 ± 0.00</u> | **93.00 ± 0.00** | **91.00 ± 0.00** | **92.00 ± 0.00** "
        "| **0.3000 ± 0.0000** | 0.0100 ± 0.0000 | 512 ± 0 |\n"
        "\n"
        "Mean ± sample standard deviation over n seeds (fewer where a cell says so), best mean in bold, "
        "second best underlined, — where there is none.\n"
    )


def test_csv_is_unrounded() -> None:
    accuracies = [90.123456789, 91.987654321, 93.0]
    (row,) = csv.DictReader(io.StringIO(build(runs("hkd", accuracies), DEFAULT).csv()))
    std = statistics.stdev(accuracies)
    assert float(row["test_top1_last_mean"]) == statistics.mean(accuracies)
    assert float(row["test_top1_last_std"]) == pytest.approx(std, rel=1e-14)
    assert float(row["test_top1_last_ci95"]) == pytest.approx(4.302652729749462 * std / math.sqrt(3), rel=1e-12)
    assert (row["test_top1_last_n"], row["n"], row["seeds"]) == ("3", "3", "0 1 2")
    assert (row["study"], row["pair"], row["variant"]) == ("suite", "large->small", "hkd")
    assert row["teacher_accuracy"] == "97.5"


def test_the_frame_keeps_columns_without_values_and_print_leaves_them_out() -> None:
    table = build(runs("hkd", [90.0, 91.0, 92.0]), DEFAULT)
    assert "test top-1, at best validation (%)" not in block(table).header
    assert list(table.frame["test_top1_at_best_val_n"]) == [0]
    assert table.frame["test_top1_at_best_val_mean"].isna().all()
    assert ",,,0," in table.csv()


def test_one_run_has_a_dash_for_its_spread_and_a_warning() -> None:
    table = build(runs("hkd", [90.0]))
    assert cells(table, 0) == ["hkd", "1", "90.00 ± —"]
    assert math.isnan(table.frame["test_top1_last_std"][0])
    assert "- fewer than 3 seeds, so the spread is unreliable: hkd (n=1)" in table.markdown()


@pytest.mark.parametrize("columns", [("test_top1_last",), ("peak_memory_mib",), tuple(METRICS)])
def test_n_is_always_shown(columns: tuple[str, ...]) -> None:
    table = build(runs("hkd", [90.0, 91.0]), TableSpec("short", columns))
    assert block(table).header[:2] == ("variant", "n")
    assert block(table).rows()[0][:2] == ["hkd", "2"]


def test_values_that_some_runs_lack_show_how_many_have_them() -> None:
    records = [*runs("hkd", [90.0, 91.0, 92.0]), *runs("kd", [90.0, 91.0, 92.0], test_nll_last=None)]
    records[0] = make_record(seed=0, variant="hkd", identity="id-hkd", test_nll_last=math.nan)
    table = build(records, TableSpec("t", ("test_nll_last",)))
    assert block(table).rows() == [["hkd", "3", "0.3000 ± 0.0000 (n=2)"], ["kd", "3", "—"]]
    assert list(table.frame["test_nll_last_n"]) == [2, 0]


def test_the_max_over_epochs_is_always_labelled_as_chosen_on_test() -> None:
    assert "chosen on test" in METRICS["test_top1_max"].label
    assert not any("chosen on test" in METRICS[name].label for name in METRICS if name != "test_top1_max")
    labels = [column.label for column in METRICS.values()]
    assert len(set(labels)) == len(labels)


def test_best_is_the_highest_accuracy_and_the_lowest_loss() -> None:
    records = runs("a", [90.0, 92.0], test_nll_last=0.5) + runs("b", [80.0, 82.0], test_nll_last=0.25)
    table = build(records, TableSpec("t", ("test_top1_last", "test_nll_last", "seconds_per_step")))
    assert [[cell.mark for cell in row] for row in block(table).cells] == [
        [None, None, "best", "second", None],
        [None, None, "second", "best", None],
    ]
    assert cells(table, 0)[2] == "**91.00 ± 1.41**"


def test_a_row_alone_is_not_the_best() -> None:
    text = build(runs("hkd", [90.0, 91.0])).markdown()
    assert "**" not in text
    assert "<u>" not in text


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.floats(0, 100), min_size=1, max_size=3), min_size=2))
def test_marks_are_at_the_two_highest_means(found: dict[str, list[float]]) -> None:
    table = build([record for name, accuracies in found.items() for record in runs(name, accuracies)])
    means = [round(mean, 9) for mean in table.frame["test_top1_last_mean"]]
    best, second, *_ = [*sorted(set(means), reverse=True), None]
    assert [row[2].mark for row in block(table).cells] == [
        "best" if mean == best else "second" if mean == second else None for mean in means
    ]


@given(st.sets(st.sampled_from("abcdefgh"), min_size=1), st.lists(st.sampled_from("abcdefgh"), unique=True))
def test_rows_follow_the_order_and_then_the_alphabet(variants: set[str], order: list[str]) -> None:
    records = [record for name in variants for record in runs(name, [90.0])]
    shown = [row[0] for row in block(build(records, order=tuple(order))).rows()]
    assert shown == [name for name in order if name in variants] + sorted(variants - set(order))


def test_rows_of_one_variant_stand_together() -> None:
    records = [
        *runs("b", [90.0], identity="1", varied={"k": 4}), *runs("b", [90.0], identity="2", varied={"k": 8}),
        *runs("a", [90.0]),
    ]  # fmt: skip
    table = build(records, order=("b", "a"))
    assert [row[0] for row in block(table).rows()] == ["b (k=4)", "b (k=8)", "a"]
    assert list(table.frame["variant"]) == ["b", "b", "a"]
    assert list(table.frame["label"]) == ["b (k=4)", "b (k=8)", "a"]


def test_studies_and_pairs_have_their_own_tables() -> None:
    records = runs("hkd", [90.0], study="two") + runs("hkd", [91.0]) + runs("hkd", [92.0], pair="a->b")
    tables = build_tables(records, LAST)
    assert [table.title for table in tables] == ["suite, a->b", "suite, large->small", "two, large->small"]
    assert [block(table).rows()[0][2] for table in tables] == ["92.00 ± —", "91.00 ± —", "90.00 ± —"]


def test_runs_that_did_not_finish_are_notes_and_no_rows() -> None:
    records = runs("hkd", [90.0] * 3) + runs("kd", [1.0], status="failed", metrics=Metrics(), error="diverged")
    table = build(records)
    assert [row[0] for row in block(table).rows()] == ["hkd"]
    assert table.notes == ("left out: 1 failed run: suite/kd seed 0",)
    assert build_tables(runs("kd", [1.0], status="failed"), LAST) == []
    assert build_tables([], LAST) == []


def test_caveats_become_notes() -> None:
    table = build(runs("hkd", [90.0] * 3) + runs("kd", [90.0] * 3, code=Code("0.2.0", "fff", False)))
    assert table.notes == ("code versions are mixed: 0.1.0 (abc123): 3 runs, 0.2.0 (fff): 3 runs",)
    assert f"- {table.notes[0]}" in table.markdown().splitlines()


def test_the_caption_tells_teachers_apart() -> None:
    records = runs("ce", [90.0], teacher=None) + runs("hkd", [90.0])
    assert build(records).caption == "Teacher: test top-1 97.50 %."
    assert build(records[:1]).caption == ""
    records += runs("kd", [90.0], teacher=Teacher("beef", 95.0)) + runs("crd", [90.0], teacher=Teacher("c", None))
    assert build(records).caption == (
        "Teachers differ between rows: test top-1 95.00 % for kd; 97.50 % for hkd; unknown for crd."
    )


def test_the_caption_names_every_teacher_of_a_row() -> None:
    """A teacher that is trained anew elsewhere keeps its identity."""
    records = [
        *runs("a", [56.0], teacher=Teacher("t", 9.5)), *runs("b", [60.0], teacher=Teacher("t", 56.77)),
        *(dataclasses.replace(run, seed=1) for run in runs("b", [61.0], teacher=Teacher("t", 60.1))),
    ]  # fmt: skip
    table = build(records)
    assert table.caption == "There are several teachers: test top-1 9.50 % for a; 56.77 % for b; 60.10 % for b."
    assert table.frame["teacher_accuracy"].tolist() == pytest.approx([9.5, (56.77 + 60.1) / 2])


UNTESTED = "1 row without p: too few seeds with a value, or equal differences in all"


@pytest.mark.parametrize(("accuracies", "notes"), [
    ([[90.0], [91.0]], [UNTESTED]),
    ([[90.0, 91.0, 92.0], [91.0, 92.0, 93.0]], [UNTESTED]),
    ([[90.0, 91.0, 92.0], [91.0, 92.0, 93.0], [94.0, 93.0, 96.0]],
     ["number of comparisons: 1", UNTESTED]),
    ([[90.0, 91.0, 92.0], [94.0, 93.0, 96.0]], ["number of comparisons: 1"]),
])  # fmt: skip
def test_the_note_on_tests_tells_of_those_that_there_were(accuracies: list[list[float]], notes: list[str]) -> None:
    records = [run for number, of in enumerate(accuracies) for run in runs(f"v{number}", of)]
    table = build(records, dataclasses.replace(LAST, baseline="v0"))
    found = [note for note in table.notes if "p:" in note or "comparisons: " in note]
    assert len(found) == len(notes)
    assert all(end in note for end, note in zip(notes, found, strict=True))


def test_a_table_whose_columns_no_run_has_says_so() -> None:
    table = build(runs("a", [90.0]), TableSpec("validation", ("val_top1_best",)))
    assert "no run has validation top-1, best epoch (%)" in table.notes


def test_a_mean_that_rounds_to_nought_has_no_sign() -> None:
    records = [dataclasses.replace(run, metrics=dataclasses.replace(run.metrics, diagnostics={"hkd.overlap": -1e-5}))
               for run in runs("a", [90.0])]  # fmt: skip
    assert cells(build(records, TableSpec("t", ("overlap",))), 0)[2].startswith("0.000")


def test_markdown_is_safe_from_names() -> None:
    table = build(runs("a|b *c* <i>`", [90.0, 91.0, 92.0], study="s|t"))
    assert cells(table, 0) == [r"a\|b \*c\* \<i>\`", "3", "91.00 ± 1.00"]
    assert table.markdown().startswith(r"### s\|t, large->small")
    assert block(table).rows()[0][0] == "a|b *c* <i>`"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"columns": ["test_top1_last"]}, "table '' needs the option 'name'"),
        ({"name": "t"}, "table 't' needs the option 'columns'"),
        ({"name": "t", "colums": []}, "table 't' has no option 'colums'; did you mean 'columns'?"),
        (
            {"name": "t", "columns": "test_top1_last"},
            "table 't': option 'columns' is 'test_top1_last', but must be",
        ),
        ({"name": "t", "columns": [1]}, "table 't': option 'columns' is [1], but must be"),
        ({"name": "t", "columns": []}, "table 't': the list 'columns' is empty"),
        (
            {"name": "t", "columns": ["test_top_last"]},
            "table 't' has no column 'test_top_last'; did you mean 'test_",
        ),
        ({"name": "t", "columns": ["n", "n"]}, "table 't' has no column 'n'"),
        ({"name": "t", "columns": ["duration_s"], "compare": "duration"}, "table 't' has no column 'duration'; did"),
        ({"name": "t", "columns": ["duration_s"], "layout": "grid"}, "table 't': option 'layout' is 'grid', but must"),
        ({"name": "t", "columns": ["duration_s"] * 2}, "table 't' has the column 'duration_s' twice"),
    ],
)
def test_a_wrong_spec_is_named(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError) as caught:
        TableSpec.from_mapping(options)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


def test_every_column_can_be_shown() -> None:
    values = {name: 50.0 for name in METRICS if name != "test_top1_last"}
    table = build(runs("hkd", [50.0, 50.0], **values),
                  TableSpec("all", tuple(METRICS)))  # fmt: skip
    assert len(block(table).header) == 2 + len(METRICS)
    assert all((table.frame[f"{name}_mean"] == 50.0).all() for name in METRICS)


def test_a_mistyped_term_of_a_diagnostic_is_named() -> None:
    records = runs("hkd", [50.0, 50.0], metrics=Metrics(test_top1_last=50.0, diagnostics={"hkd.overlap": 0.25}))
    table = build(records, TableSpec("t", ("hkd.overlap", "hdk.overlap")))
    assert block(table).header == ("variant", "n", "overlap of the two graphs, hkd")
    assert "no run has the diagnostic 'hdk.overlap'; did you mean 'hkd.overlap'?" in table.notes


def test_another_layout_gets_other_files() -> None:
    (table,) = build_tables(runs("hkd", [90.0]), TableSpec("short", ("test_top1_last",)))
    assert table.name == "suite_large->small_short"


def test_data_sets_are_never_mixed() -> None:
    records = [*runs("hkd", [90.0], data="digits"), *runs("hkd", [70.0], data="cifar100"), *runs("hkd", [80.0])]
    tables = build_tables(records, LAST)
    assert [(table.name, table.title) for table in tables] == [
        ("suite_large->small_unknown", "suite, large->small"),
        ("suite_large->small_cifar100", "suite, large->small on cifar100"),
        ("suite_large->small_digits", "suite, large->small on digits"),
    ]
    assert [list(table.frame["test_top1_last_mean"]) for table in tables] == [[80.0], [70.0], [90.0]]
    assert list(tables[1].frame["data"]) == ["cifar100"]
    assert [table.name for table in build_tables(records[:1], LAST)] == ["suite_large->small"]


AGAINST = TableSpec("default", ("test_top1_last",), baseline="student")


def test_a_baseline_adds_differences_and_tests() -> None:
    student, kd, hkd = [70.0, 71.0, 72.0], [72.0, 74.0, 74.5], [71.0, 71.5, 73.5]
    records = [*runs("student", student), *runs("kd", kd), *runs("hkd", hkd)]
    table = build(records, AGAINST, ("student", "kd", "hkd"))
    assert block(table).header[3:] == (
        "difference to student, test top-1, last epoch (%)", "95 % interval", "p (Holm)", "test",
    )  # fmt: skip
    expected = {name: scipy.stats.ttest_rel(values, student) for name, values in (("kd", kd), ("hkd", hkd))}
    low, high = expected["kd"].confidence_interval()
    p = 2 * expected["kd"].pvalue
    assert cells(table, 0)[3:] == ["—"] * 4
    assert cells(table, 1)[3:] == ["+2.50", f"[{low:.2f}, {high:.2f}]", f"{p:.3f}", "paired t, n=3"]
    frame = table.frame.set_index("variant")
    for name, test in expected.items():
        assert frame["p"][name] == pytest.approx(test.pvalue, rel=1e-12)
        assert frame["difference_low"][name] == pytest.approx(test.confidence_interval().low, rel=1e-12)
    assert frame["p_holm"]["kd"] == pytest.approx(p, rel=1e-12)
    assert frame["p_holm"]["hkd"] == max(frame["p_holm"]["kd"], frame["p"]["hkd"])
    assert list(frame["test_n"]) == [0, 3, 3]
    assert set(frame["compared"]) == {"test_top1_last"}
    assert any("number of comparisons: 2" in note for note in table.notes)


def test_a_test_says_how_many_seeds_each_side_has() -> None:
    records = [*runs("student", [70.0, 71.0, 72.0]), *runs("kd", [0.0] * 3 + [72.0, 74.0])[3:]]
    table = build(records, AGAINST, ("student", "kd"))
    assert cells(table, 1)[-1] == "Welch t, n=2 and 3"


def test_another_column_can_be_compared() -> None:
    records = [*runs("student", [70.0, 71.0], test_nll_last=0.5), *runs("kd", [72.0, 74.0], test_nll_last=0.25)]
    spec = dataclasses.replace(AGAINST, compare="test_nll_last")
    table = build(records, spec, ("student", "kd"))
    assert block(table).header[3] == "difference to student, test NLL, last epoch"
    assert cells(table, 1)[3:] == ["-0.2500", "—", "—", "paired t, n=2"], "no spread, no p value"


def test_a_small_p_value_is_not_shown_as_nought() -> None:
    records = [*runs("student", [70.0, 71.0, 72.0, 73.0]), *runs("kd", [80.001, 81.0, 82.0, 83.0])]
    table = build(records, AGAINST, ("student", "kd"))
    assert cells(table, 1)[5] == r"\< 0.001"
    assert 0 < table.frame["p_holm"][1] < 0.001


def test_a_baseline_that_is_missing_or_several_rows_is_a_note() -> None:
    table = build(runs("kd", [90.0, 91.0, 92.0]), AGAINST)
    assert table.notes == ("nothing is compared: the baseline 'student' has no finished run here",)
    assert len(block(table).header) == 3
    assert "p_holm" not in table.frame
    records = [
        *runs("student", [90.0, 91.0, 92.0], identity="1", varied={"k": 4}), *runs("kd", [90.0, 90.0, 90.0]),
        *runs("student", [91.0, 91.0, 92.0], identity="2", varied={"k": 8}),
    ]  # fmt: skip
    (note,) = build(records, AGAINST).notes
    assert note == "nothing is compared: the baseline 'student' is several rows here (student (k=4), student (k=8))"
    table = build(records, dataclasses.replace(AGAINST, baseline="student (k=8)"))
    assert set(table.frame["baseline"]) == {"student (k=8)"}


def test_importing_the_modules_loads_nothing_heavy() -> None:
    code = (
        "import sys, graphkd.report.load, graphkd.report.tables, graphkd.report.grid;"
        "print({'torch', 'dgl', 'hydra', 'pandas', 'numpy', 'scipy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
