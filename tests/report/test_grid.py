"""The grid of Table 1: published figures and ARI against the paper, and what a study's own grid shows."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_record import make_record

from graphkd.errors import UserError
from graphkd.report.ari import average_relative_improvement
from graphkd.report.grid import build_grids
from graphkd.report.grid_spec import GridSpec
from graphkd.report.markup import Table
from graphkd.report.record import Record, Teacher

CONFIG = Path(__file__).parents[2] / "configs" / "table" / "table1.yaml"
OPTIONS = yaml.safe_load(CONFIG.read_text())
SPEC = GridSpec.from_mapping(OPTIONS)
RECOMPUTED = {
    "kd": 126.67, "at_kd": 153.01, "pkt_kd": 55.79, "sp_kd": 81.10, "cc_kd": 59.17, "rkd_kd": 72.34, "crd_kd": 15.32,
    "sskd_kd": 19.01, "hkd": 13.08,
}  # fmt: skip
"""ARI of the rounded means, worked out apart from this code."""
FIRST, SECOND = "resnet32x4->resnet8x4", "vgg13->MobileNetV2"


def published(variant: str) -> dict[str, float]:
    """The published means of a variant by pair."""
    return {pair: SPEC.published_mean(variant, pair).mean for pair in SPEC.pairs}


def runs(variant: str, accuracies: list[float], pair: str = FIRST, **changes: Any) -> list[Record]:
    """Finished runs of a variant on CIFAR-100, seeds from 0."""
    fields = {"study": "table1", "variant": variant, "identity": f"{variant} {pair}", "pair": pair, "data": "cifar100"}
    return [make_record(seed=seed, test_top1_last=value, **(fields | changes)) for seed, value in enumerate(accuracies)]


def as_published(*without: str) -> list[Record]:
    """A study in which every student reaches what was published, three times."""
    return [
        record
        for variant in SPEC.rows if variant not in ("teacher", *without)
        for pair, mean in published(variant).items()
        for record in runs(variant, [mean] * 3, pair, teacher=Teacher(pair, published("teacher")[pair]))
    ]  # fmt: skip


def build(records: list[Record], spec: GridSpec = SPEC) -> Table:
    """The only grid of these records."""
    (table,) = build_grids(records, spec)
    return table


def row(table: Table, label: str, block: int = 0) -> list[str]:
    """The printed cells of a row of a block, without its label."""
    (found,) = [cells[1:] for cells in table.blocks[block].rows() if cells[0] == label]
    return found


@pytest.mark.parametrize("variant", RECOMPUTED)
def test_published_ari_lies_where_the_rounding_of_the_means_allows(variant: str) -> None:
    target, method, student = published("hkd_kd"), published(variant), published("student")
    ari = average_relative_improvement(target, method, student)
    assert ari.value == pytest.approx(RECOMPUTED[variant], abs=0.005)
    assert ari.pairs == SPEC.pairs
    lows, highs = [], []
    for pair in SPEC.pairs:
        corners = itertools.product(*((of[pair] - 0.005, of[pair] + 0.005) for of in (target, method, student)))
        ratios = [(t - x) / (x - s) * 100 for t, x, s in corners]
        lows.append(min(ratios))
        highs.append(max(ratios))
    low, high = sum(lows) / len(lows), sum(highs) / len(highs)
    assert low < SPEC.published_ari(variant) < high
    if variant == "kd":
        assert (low, high) == pytest.approx((125.02, 128.35), abs=0.005)


def test_every_published_figure_is_there() -> None:
    assert SPEC.published is not None
    assert list(SPEC.published.rows) == list(SPEC.rows)
    assert not any(math.isnan(mean) for variant in SPEC.rows for mean in published(variant).values())
    assert {name for name in SPEC.rows if math.isnan(SPEC.published_ari(name))} == {"teacher", "student", "hkd_kd"}
    assert [SPEC.published_mean("hkd_kd", pair).std for pair in SPEC.pairs] == [0.05, 0.22, 0.25, 0.30, 0.32]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100)), max_size=5))
def test_ari_is_the_mean_over_the_pairs_above_the_student(found: list[tuple[float, float, float]]) -> None:
    target, method, student = ({str(n): one[side] for n, one in enumerate(found)} for side in range(3))
    ari = average_relative_improvement(target, method, student)
    ratios = [100 * (t - x) / (x - s) for t, x, s in found if x > s]
    assert len(ari.pairs) == len(ratios)
    assert {*ari.pairs, *ari.below} == set(method)
    if ratios and all(map(math.isfinite, ratios)):
        assert ari.value == pytest.approx(sum(ratios) / len(ratios))
    elif not ratios:
        assert math.isnan(ari.value)


def test_a_study_that_reaches_the_published_figures() -> None:
    table = build(as_published())
    assert (table.name, table.title) == ("table1", "table1 on cifar100")
    assert table.caption == "test top-1, last epoch (%), n = 3 where a cell does not say otherwise."
    assert table.blocks[0].header == ("method", *SPEC.pairs, "ARI (%)")
    assert [cells[0] for cells in table.blocks[0].rows()] == list(SPEC.rows.values())
    assert row(table, "Teacher") == ["79.42", "79.42", "74.64", "79.34", "79.34", "—"]
    assert row(table, "KD")[0] == "73.55 ± 0.00"
    assert {variant: row(table, SPEC.rows[variant])[-1] for variant in RECOMPUTED} == {
        variant: f"{value:.2f}" for variant, value in RECOMPUTED.items()
    }
    assert row(table, "HKD+KD")[-1] == row(table, "Student")[-1] == "—"
    assert row(table, "KD", 1)[0] == "73.55 ± 0.20 (+0.00)"
    assert row(table, "KD", 1)[-1] == "126.48 (+0.19)"
    (note,) = table.notes
    assert note.startswith("these runs do not say their protocol; that of the published figures is 240 epochs")


def test_best_and_second_of_each_pair_leave_the_teacher_out() -> None:
    block = build(as_published()).blocks[0]
    marked = {
        (pair, cell.mark): cells[0].text
        for cells in block.cells for pair, cell in zip(block.header, cells, strict=True) if cell.mark
    }  # fmt: skip
    assert all(marked[pair, "best"] == "HKD+KD" for pair in SPEC.pairs)
    assert [marked[pair, "second"] for pair in SPEC.pairs] == ["SSKD+KD", "AT+KD", "HKD", "HKD", "CRD+KD"]
    assert len(marked) == 10


def test_the_csv_is_unrounded_and_has_everything_of_a_cell() -> None:
    records = [*as_published("kd"), *runs("kd", [73.123456, 74.0], seconds_per_step=0.25, peak_memory_mib=100.5)]
    frame = build(records).frame.set_index("variant")
    kd = frame.loc["kd"]
    assert kd[f"{FIRST}_mean"] == pytest.approx(73.561728, rel=1e-14)
    assert kd[f"{FIRST}_n"] == 2
    assert kd[f"{FIRST}_published"] == 73.55
    assert kd[f"{FIRST}_published_std"] == 0.2
    assert kd[f"{FIRST}_difference"] == pytest.approx(0.011728)
    assert (kd[f"{FIRST}_seconds_per_step"], kd[f"{FIRST}_peak_memory_mib"]) == (0.25, 100.5)
    assert (kd["ari_published"], kd["ari_pairs"]) == (126.48, 1)
    assert math.isnan(kd["ari_difference"]), "its ARI is not over the published pairs"
    assert frame["ari"]["at_kd"] == pytest.approx(RECOMPUTED["at_kd"], abs=0.005)
    assert frame[f"{FIRST}_std"]["at_kd"] == 0.0


def test_what_is_missing_is_a_dash_and_other_variants_and_pairs_follow() -> None:
    records = [
        *runs("student", [70.0] * 3), *runs("zz", [71.0] * 3), *runs("dkd", [72.0] * 2), *runs("hkd_kd", [73.0] * 3),
        *runs("student", [60.0] * 3, "x->y"), *runs("student", [60.0] * 3, "a->b"),
        *runs("student", [60.0] * 3, SECOND),
    ]  # fmt: skip
    table = build(records)
    assert table.blocks[0].header == ("method", FIRST, SECOND, "a->b", "x->y", "ARI (%)")
    assert [cells[0] for cells in table.blocks[0].rows()] == [*SPEC.rows.values(), "dkd", "zz"]
    assert row(table, "KD") == ["—"] * 5
    assert row(table, "dkd")[0] == "72.00 ± 0.00 (n=2)"
    assert row(table, "dkd")[-1] == "50.00 (1 of 4 pairs)"
    assert f"seeds differ between rows: 0 1 2 is usual, but not for {FIRST}: dkd (0 1)" in table.notes


def test_a_pair_where_a_row_is_not_above_the_student_is_a_footnote() -> None:
    records = [
        *runs("student", [70.0] * 3), *runs("kd", [72.0] * 3), *runs("hkd_kd", [73.0] * 3), *runs("hkd", [70.0] * 3),
        *runs("student", [60.0] * 3, SECOND), *runs("kd", [60.0] * 3, SECOND), *runs("hkd_kd", [66.0] * 3, SECOND),
    ]  # fmt: skip
    table = build(records)
    assert row(table, "KD")[-1] == "50.00 (1 of 2 pairs)"
    assert row(table, "HKD")[-1] == "—"
    assert table.notes[:2] == (
        f"ARI of KD leaves out {SECOND}, where KD is not above Student",
        f"ARI of HKD leaves out {FIRST}, where HKD is not above Student",
    )


@pytest.mark.parametrize(("data", "why"), [("digits", "are on digits"), (None, "do not say their data set")])
def test_figures_on_other_data_have_no_difference(data: str | None, why: str) -> None:
    table = build([dataclasses.replace(record, data=data) for record in as_published()])
    assert row(table, "KD", 1)[0] == "73.55 ± 0.20 (—)"
    assert row(table, "KD", 1)[-1] == "126.48 (—)"
    assert table.frame[f"{FIRST}_difference"].isna().all()
    assert table.blocks[1].title.startswith("Published on cifar100 (")
    assert table.notes == (f"no differences to the published figures: those are on cifar100, these runs {why}",)


def test_pairs_without_published_figures_need_no_such_block() -> None:
    table = build(runs("student", [70.0] * 3, "a->b", data="digits"))
    assert [block.title for block in table.blocks] == ["", "Seconds per step"]
    assert table.notes == ()


def test_each_data_set_has_its_own_grid() -> None:
    records = [*runs("student", [70.0] * 3), *runs("student", [90.0] * 3, data="digits")]
    tables = build_grids(records, SPEC)
    assert [(table.name, table.title) for table in tables] == [
        ("table1_cifar100", "table1 on cifar100"), ("table1_digits", "table1 on digits"),
    ]  # fmt: skip
    assert [row(table, "Student")[0] for table in tables] == ["70.00 ± 0.00", "90.00 ± 0.00"]


def test_only_the_study_that_is_asked_for_is_shown() -> None:
    records = [*runs("student", [70.0] * 3), *runs("student", [80.0] * 3, study="other")]
    assert [table.title for table in build_grids(records, SPEC)] == ["table1 on cifar100"]
    everything = build_grids(records, dataclasses.replace(SPEC, study=None))
    assert [table.name for table in everything] == ["other_table1", "table1"]
    reason = r"no finished run of the study 'tabel1'; did you mean 'table1'\? \(choices: other, table1\); --study NAME"
    with pytest.raises(UserError, match=reason):
        build_grids(records, dataclasses.replace(SPEC, study="tabel1"))


def test_configurations_of_one_variant_are_never_mixed() -> None:
    records = [
        *runs("kd", [70.0] * 3, identity="1", varied={"T": 2}), *runs("kd", [80.0] * 3, identity="2", varied={"T": 4}),
    ]  # fmt: skip
    table = build(records)
    assert row(table, "KD")[0] == "—"
    assert [row(table, f"kd (T={t})")[0] for t in (2, 4)] == ["70.00 ± 0.00", "80.00 ± 0.00"]


def test_several_teachers_of_a_pair_are_averaged_and_named() -> None:
    records = runs("kd", [70.0] * 3)
    records[0] = dataclasses.replace(records[0], teacher=Teacher("beef", 96.5))
    table = build(records)
    assert row(table, "Teacher")[0] == "97.00 ± 0.71 (n=2)"
    assert f"students of a pair had different teachers: {FIRST} (2)" in table.notes


def test_the_last_epoch_counts_and_seconds_stand_beside() -> None:
    table = build(runs("kd", [70.0] * 3, test_top1_max=99.0, test_top1_at_best_val=98.0))
    assert row(table, "KD")[0] == "70.00 ± 0.00"
    assert table.blocks[-1].title == "Seconds per step"
    assert table.blocks[-1].rows() == [["KD", "0.0100"]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": "hkd_kdd"}, "table 'table1': option 'target' names no row 'hkd_kdd'; did you mean 'hkd"),
        ({"student": "x"}, "table 'table1': option 'student' names no row 'x'"),
        ({"pairs": ["a->b", "a->b"]}, "table 'table1' has the pair 'a->b' twice"),
        ({"pairs": "a->b"}, "table 'table1': option 'pairs' is 'a->b', but must be a list"),
        ({"rows": ["kd"]}, "table 'table1': option 'rows' is ['kd'], but must be a mapping"),
        ({"rows": {"kd": 1}}, "table 'table1': row 'kd' is 1, but must be text"),
        ({"layout": "columns"}, "table 'table1': option 'layout' is 'columns', but must be one of grid"),
        ({"row": {}}, "table 'table1' has no option 'row'; did you mean 'rows'?"),
        ({"published": {"source": "x"}}, "table 'table1': option 'published' needs the option 'data'"),
        (
            {"published": {"source": "x", "data": "y", "rows": {"kd": {"mean": [1.0]}}}},
            "table 'table1': published row 'kd' must have 5 figures, one a pair",
        ),
        (
            {"published": {"source": "x", "data": "y", "rows": {"kd": {"means": [1.0]}}}},
            "table 'table1': published row 'kd' has no option 'means'; did you mean 'mean'?",
        ),
        (
            {"published": {"source": "x", "data": "y", "rows": {"dkd": {"mean": [None] * 5}}}},
            "table 'table1': option 'published' names no row 'dkd'",
        ),
    ],
)
def test_a_wrong_spec_is_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError) as caught:
        GridSpec.from_mapping({**OPTIONS, **changes})
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


def test_nothing_need_be_published() -> None:
    records = [*runs("student", [70.0] * 3), *runs("kd", [71.0] * 3)]
    table = build(records, GridSpec.from_mapping({**OPTIONS, "published": None, "elsewhere": None}))
    assert [block.title for block in table.blocks] == ["", "Seconds per step"]
    assert table.frame[f"{FIRST}_published"].isna().all()
