"""What suites say about the tables and figures of their studies."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphkd.ablation import Suite
from graphkd.report.record import Code, Metrics, Record
from graphkd.report.tables import TableSpec
from graphkd_cli.studies import draw_figures, profiles_by_study, tables_by_study


def finished(study: str, variant: str) -> Record:
    """A finished run."""
    return Record(
        kind="student", status="done", study=study, variant=variant, pair="large->small", varied={}, identity=variant,
        seed=0, teacher=None, versions={}, code=Code("0.2.0"), device="cpu", threads=1, seconds_per_step=0.2,
        metrics=Metrics(test_top1_last=90.0), phases={"data": 0.1},
    )  # fmt: skip


RECORDS = [finished(study, variant) for study in ("first", "second") for variant in ("ce", "kd")]
SUITES = {
    "first": Suite("", [0], [], {"ce": [], "kd": []}, baseline="kd"),
    "second": Suite("", [0], [], {"kd": [], "ce": []}),
}


def test_every_study_has_the_order_of_its_own_suite() -> None:
    spec = TableSpec("default", ("test_top1_last",))
    for tables in (tables_by_study(RECORDS, spec, SUITES), profiles_by_study(RECORDS, SUITES)):
        assert [[row[0] for row in table.blocks[0].rows()] for table in tables] == [["ce", "kd"], ["kd", "ce"]]


@pytest.mark.parametrize(("baseline", "expected"), [(None, ["kd", None]), ("ce", ["ce", "ce"])])
def test_the_baseline_that_is_asked_for_goes_before_the_suites(
    baseline: str | None, expected: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str | None] = []
    monkeypatch.setattr("graphkd_cli.studies.build_figures", lambda *_, baseline, **__: drawn.append(baseline) or [])
    draw_figures(RECORDS, SUITES, tmp_path, baseline)
    assert drawn == expected
