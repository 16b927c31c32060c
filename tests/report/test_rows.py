"""Which runs make which rows, and how rows are told apart."""

from __future__ import annotations

import random
import statistics

from hypothesis import given
from hypothesis import strategies as st
from test_record import make_record

from graphkd.report.caveats import caveats, left_out
from graphkd.report.record import Code, Record
from graphkd.report.rows import aggregate

finite = st.floats(-1e6, 1e6)


def runs(variant: str, seeds: int | list[int], **changes: object) -> list[Record]:
    """Finished runs of one variant, whose identity is the variant's name unless given."""
    identity = changes.pop("identity", f"id-{variant}")
    numbers = range(seeds) if isinstance(seeds, int) else seeds
    return [make_record(variant=variant, identity=identity, seed=seed, **changes) for seed in numbers]


def test_a_row_is_one_configuration_over_its_seeds() -> None:
    records = [
        *runs("hkd", [2, 0, 1], test_top1_last=90.0), *runs("kd", 2), *runs("kd", 1, study="other"),
        *runs("kd", 1, pair="a->b"),
    ]  # fmt: skip
    rows = aggregate(records)
    assert [(row.study, row.pair, row.variant, row.seeds) for row in rows] == [
        ("other", "large->small", "kd", (0,)),
        ("suite", "a->b", "kd", (0,)),
        ("suite", "large->small", "hkd", (0, 1, 2)),
        ("suite", "large->small", "kd", (0, 1)),
    ]


def test_runs_on_different_data_are_different_rows() -> None:
    records = [*runs("kd", 2, data="digits"), *runs("kd", 1, data="cifar100"), *runs("kd", [4])]
    rows = aggregate(records)
    assert [(row.data, row.label, row.seeds) for row in rows] == [
        ("", "kd", (4,)), ("cifar100", "kd", (0,)), ("digits", "kd", (0, 1)),
    ]  # fmt: skip


def test_values_by_seed_leave_out_what_is_missing() -> None:
    records = [*runs("kd", [3, 1], test_nll_last=0.5), *runs("kd", [2], test_nll_last=None)]
    (row,) = aggregate(records)
    assert row.by_seed("test_nll_last") == {1: 0.5, 3: 0.5}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), finite), max_size=12), st.randoms())
def test_rows_do_not_depend_on_the_order_of_records(
    found: list[tuple[str, int, float]], shuffler: random.Random
) -> None:
    records = [make_record(variant=name, identity=name, seed=seed, test_top1_last=v) for name, seed, v in found]
    rows = aggregate(records)
    assert aggregate(shuffler.sample(records, len(records))) == rows
    assert {(row.variant, seed) for row in rows for seed in row.seeds} == {(name, seed) for name, seed, _ in found}
    for row in rows:
        means = [run.metrics.test_top1_last for run in row.runs]
        assert row.summary("test_top1_last").mean == statistics.mean(means)


def test_only_finished_students_count_and_the_others_are_named() -> None:
    records = [
        *runs("hkd", 1), *runs("kd", 2, status="failed"), *runs("crd", 1, status="running"),
        *runs("resnet", 1, kind="teacher"),
    ]  # fmt: skip
    assert [row.variant for row in aggregate(records)] == ["hkd"]
    assert left_out(records) == [
        "left out: 2 failed runs: suite/kd seed 0, suite/kd seed 1",
        "left out: 1 unfinished run: suite/crd seed 0",
    ]
    assert left_out(runs("hkd", 3)) == []


def test_a_run_recorded_twice_counts_once_as_the_newest_code_has_it() -> None:
    old = runs("hkd", 2, test_top1_last=80.0, code=Code("0.9.0", "a", False))
    new = runs("hkd", [1], test_top1_last=90.0, code=Code("0.10.0", "b", True))
    for records in (old + new, new + old):
        (row,) = aggregate(records)
        assert [run.metrics.test_top1_last for run in row.runs] == [80.0, 90.0]
        assert row.repeated == (1,)
        assert "recorded more than once, counted once (newest code): hkd seed 1" in caveats([row])


def test_a_copied_record_counts_once() -> None:
    (row,) = aggregate(runs("hkd", 3) * 2)
    assert row.summary("test_top1_last").n == 3


def test_a_clean_checkout_goes_before_a_dirty_one() -> None:
    clean, dirty = Code("1.0", "a", False), Code("1.0", "a", True)
    records = runs("hkd", 1, code=dirty, test_top1_last=99.0) + runs("hkd", 1, code=clean, test_top1_last=80.0)
    (row,) = aggregate(records)
    assert row.runs[0].code == clean


def test_configurations_of_one_variant_are_told_apart_by_what_they_varied() -> None:
    common = {"objective": {"hkd": {"temperature": 0.1}}}
    records = [
        *runs("hkd", 1, identity="a", varied={**common, "gnn": {"name": "gat", "heads": 2}}),
        *runs("hkd", 1, identity="b", varied={**common, "gnn": {"name": "gat", "heads": 4}}),
        *runs("hkd", 1, identity="c", varied=common),
        *runs("kd", 1, varied={"builder.k": 4}),
    ]
    assert [row.label for row in aggregate(records)] == [
        "hkd", "hkd (gnn.heads=2, gnn.name=gat)", "hkd (gnn.heads=4, gnn.name=gat)", "kd",
    ]  # fmt: skip


def test_numbers_in_labels_are_sorted_by_value() -> None:
    records = [run for k in (16, 2, 32, 4, 8) for run in runs("hkd", 1, identity=str(k), varied={"builder.k": k})]
    assert [row.label for row in aggregate(records)] == [f"hkd (builder.k={k})" for k in (2, 4, 8, 16, 32)]
    taus = [-2, -1, 1e-05, 0.0001, 0.25, 0.5, 1]
    records = [run for tau in reversed(taus) for run in runs("x", 1, identity=str(tau), varied={"tau": tau})]
    assert [row.label for row in aggregate(records)] == [f"x (tau={tau})" for tau in taus]


def test_configurations_that_varied_nothing_are_told_apart_by_identity() -> None:
    long = ["0" * 20 + "a", "0" * 20 + "b"]
    records = [*runs("hkd", 1, identity="1" * 64), *runs("hkd", 1, identity="2" * 64)]
    assert [row.label for row in aggregate(records)] == ["hkd #" + "1" * 12, "hkd #" + "2" * 12]
    records = [record for identity in long for record in runs("hkd", 1, identity=identity)]
    assert [row.label for row in aggregate(records)] == [f"hkd #{identity}" for identity in long]


@given(st.lists(st.dictionaries(st.sampled_from("xyz"), st.integers(0, 2), max_size=3), min_size=1, max_size=6))
def test_no_two_rows_have_the_same_label(varied: list[dict[str, int]]) -> None:
    records = [make_record(identity=f"id-{index}", varied=options) for index, options in enumerate(varied)]
    labels = [row.label for row in aggregate(records)]
    assert len(set(labels)) == len(varied)


def test_strange_values_make_printable_labels() -> None:
    records = [
        *runs("hkd", 1, identity="a", varied={"note\n": "line\nbreak", "list": [1, None], "long": "x" * 500}),
        *runs("hkd", 1, identity="b"),
    ]
    assert aggregate(records)[1].label == (r'hkd ("note\n"="line\nbreak", list=[1, null], long=' + "x" * 60 + ")")
