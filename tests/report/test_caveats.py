"""What is said about rows that hardly compare."""

from __future__ import annotations

from test_rows import runs

from graphkd.report.caveats import caveats
from graphkd.report.markup import listed
from graphkd.report.record import Code, Teacher
from graphkd.report.rows import aggregate


def test_a_clean_table_has_no_caveats() -> None:
    assert caveats(aggregate(runs("hkd", 3) + runs("kd", 3))) == []


def test_mixed_code_is_named() -> None:
    changed = runs("hkd", 3) + runs("kd", 3, code=Code("0.1.0", "abc123", True))
    assert caveats(aggregate(changed)) == [
        "code versions are mixed: 0.1.0 (abc123): 3 runs, 0.1.0 (abc123, uncommitted changes): 3 runs"
    ]
    records = runs("hkd", 3) + runs("kd", 3, code=Code("0.1.0", "def456", False))
    assert caveats(aggregate(records)) == ["code versions are mixed: 0.1.0 (abc123): 3 runs, 0.1.0 (def456): 3 runs"]
    records = runs("hkd", 3) + runs("kd", 3, code=Code("0.2.0"))
    assert "0.2.0 (no git hash): 3 runs" in caveats(aggregate(records))[0]


def test_plug_ins_that_changed_between_runs_are_named() -> None:
    codes = [Code("0.1.0", "abc123", False, {"mine": "1", "other": source}) for source in ("1", "2")]
    records = runs("hkd", 3, code=codes[0]) + runs("kd", 3, code=codes[1])
    assert caveats(aggregate(records)) == ["plug-ins changed between runs: other"]


def test_mixed_machines_are_named() -> None:
    (warning,) = caveats(aggregate(runs("hkd", 3) + runs("kd", 3, threads=1)))
    assert warning == "devices or threads are mixed, so times are not comparable: cpu with 1 thread, cpu with 2 threads"


def test_groups_of_several_sizes_are_named() -> None:
    """A run in a group of six has a sixth of the teacher's time."""
    mixed = runs("hkd", 3, group_size=6) + runs("kd", [0, 1], group_size=6) + runs("kd", [2])
    assert caveats(aggregate(mixed)) == [
        "runs trained in groups of 1 and 6, which share work, so times are not comparable"
    ]


def test_a_row_under_several_teachers_is_named() -> None:
    records = [*runs("kd", 3), *runs("hkd", [0]), *runs("hkd", [1, 2], teacher=Teacher("beef", 60.1))]
    (line,) = caveats(aggregate(records))
    assert line == "the seeds of a row had several teachers, which adds to its spread: hkd"


def test_mixed_files_of_data_are_named() -> None:
    cats, dogs = (runs(name, 3, data="folder", content=name[0] * 64) for name in ("cats", "dogs"))
    older = runs("older", 3, data="folder")
    assert caveats(aggregate(cats + older)) == []
    assert caveats(aggregate(cats + dogs + older)) == [
        "the files of the data differ, compare accuracies only where they are the same: "
        "cccccccccccc (cats); dddddddddddd (dogs)"
    ]


def test_unequal_and_few_seeds_are_named() -> None:
    records = runs("hkd", 4) + runs("kd", 4) + runs("ce", [0, 7])
    assert caveats(aggregate(records)) == [
        "seeds differ between rows: 0 1 2 3 is usual, but not for ce (0 7)",
        "fewer than 3 seeds, so the spread is unreliable: ce (n=2)",
    ]


def test_long_lists_are_cut() -> None:
    assert listed([str(n) for n in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert listed([str(n) for n in range(2000)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 1990 more"
