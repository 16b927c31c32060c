"""Finding and reading records below a folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from test_record import make_record

from graphkd.errors import UserError
from graphkd.report.load import load_records
from graphkd.report.record import Record, write

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")


def put(folder: Path, record: Record) -> Path:
    """Writes a record into a run folder and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write(record, folder / "record.json")
    return folder


def seeds(folder: Path) -> list[int]:
    """Seeds of the records below a folder, in order."""
    return [record.seed for record in load_records(folder).records]


def test_every_record_is_found_in_the_order_of_paths(tmp_path: Path) -> None:
    for seed, place in enumerate(["b/c/d", "a", ".hidden", "b", "z/deep/er/still"]):
        put(tmp_path / place, make_record(seed=seed))
    put(tmp_path, make_record(seed=9))
    loaded = load_records(tmp_path)
    assert [record.seed for record in loaded.records] == [2, 1, 0, 3, 9, 4]
    assert loaded.problems == []
    assert load_records(tmp_path) == loaded


def test_folder_names_mean_nothing(tmp_path: Path) -> None:
    put(
        tmp_path / "other-study" / "other-variant" / "seed-7",
        make_record(study="suite", variant="hkd", seed=1),
    )
    (record,) = load_records(tmp_path).records
    assert (record.study, record.variant, record.seed) == ("suite", "hkd", 1)


def test_runs_of_every_kind_and_status_are_read(tmp_path: Path) -> None:
    put(tmp_path / "a", make_record(status="failed", error="it broke"))
    put(tmp_path / "b", make_record(kind="teacher"))
    assert [(record.status, record.kind) for record in load_records(tmp_path).records] == [
        ("failed", "student"),
        ("done", "teacher"),
    ]


def test_broken_records_are_named_and_left_out(tmp_path: Path) -> None:
    put(tmp_path / "good", make_record(seed=5))
    texts = {"torn": make_record().to_json()[:99], "empty": "", "foreign": '{"name": "x"}', "list": "[]"}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    loaded = load_records(tmp_path)
    assert [record.seed for record in loaded.records] == [5]
    assert [problem.split(": ")[0] for problem in loaded.problems] == [
        str(tmp_path / name / "record.json") for name in sorted(texts)
    ]
    assert all("\n" not in problem for problem in loaded.problems)


@pytest.mark.parametrize("file", ["config.yaml", "metrics.jsonl", "student.safetensors"])
def test_a_run_without_its_record_is_named(tmp_path: Path, file: str) -> None:
    put(tmp_path / "good", make_record())
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / file).write_text("")
    (tmp_path / "empty").mkdir()
    assert load_records(tmp_path).problems == [f"{tmp_path / 'lost'}: a run without record.json"]


def test_reference_and_tables_are_read_only_where_asked_for(tmp_path: Path) -> None:
    put(tmp_path / "runs" / "a", make_record(seed=1))
    put(tmp_path / "reference" / "suite", make_record(seed=2))
    put(tmp_path / "tables", make_record(seed=3))
    put(tmp_path / "runs" / "reference", make_record(seed=4))
    assert seeds(tmp_path) == [1, 4]
    assert seeds(tmp_path / "reference") == [2]
    assert seeds(tmp_path / "tables") == [3]


def test_files_with_other_names_are_not_records(tmp_path: Path) -> None:
    run = put(tmp_path / "a", make_record(seed=1))
    for name in ("record.json.tmp", "Record.json.bak", ".record.json.1-ab.tmp", "teacher-record.json"):
        (run / name).write_text("torn")
    assert seeds(tmp_path) == [1]
    assert load_records(tmp_path).problems == []


def test_a_folder_named_like_a_record_is_only_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "record.json" / "a", make_record(seed=1))
    assert seeds(tmp_path) == [1]


@needs_links
def test_links_are_not_followed_and_those_that_lead_out_are_named(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside", make_record(seed=9))
    root = tmp_path / "results"
    run = put(root / "a", make_record(seed=1))
    (root / "loop").symlink_to(root)
    (run / "up").symlink_to("..")
    (root / "latest").symlink_to(run)
    (root / "itself").symlink_to("itself")
    (root / "broken").symlink_to("nowhere")
    (root / "out").symlink_to(outside)
    (root / "b").mkdir()
    (root / "b" / "record.json").symlink_to(outside / "record.json")
    loaded = load_records(root)
    assert [record.seed for record in loaded.records] == [1]
    assert loaded.problems == [
        f"{root / 'b' / 'record.json'}: a link out of the results folder, not followed",
        f"{root / 'out'}: a link out of the results folder, not followed",
    ]


@needs_links
def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    run = put(tmp_path / "real" / "a", make_record(seed=1))
    (tmp_path / "real" / "latest").symlink_to(run)
    (tmp_path / "results").symlink_to(tmp_path / "real")
    assert seeds(tmp_path / "results") == [1]
    assert load_records(tmp_path / "results").problems == []


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user whom modes bind")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    put(tmp_path / "a", make_record(seed=1))
    (tmp_path / "b").mkdir(mode=0)
    assert load_records(tmp_path).problems == [f"{tmp_path / 'b'}: cannot be read (Permission denied)"]


def test_a_folder_that_cannot_be_scanned_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a", make_record(seed=1))
    put(tmp_path / "b", make_record(seed=2))
    scan = os.scandir

    def refuse(folder: str) -> object:
        if os.path.basename(folder) == "b":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    loaded = load_records(tmp_path)
    assert [record.seed for record in loaded.records] == [1]
    assert loaded.problems == [f"{tmp_path / 'b'}: cannot be read (Permission denied)"]


def test_folders_nested_deeper_than_python_recurses_are_read(tmp_path: Path) -> None:
    put(tmp_path / "/".join(["d"] * 500), make_record(seed=1))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    try:
        assert seeds(tmp_path) == [1]
    finally:
        sys.setrecursionlimit(limit)


def test_a_missing_folder_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "absent", tmp_path / "file", Path("x" * 5000)):
        with pytest.raises(UserError, match="there is no results folder"):
            load_records(folder)


def test_nothing_readable_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no readable record\.json below '[^\n]*'$"):
        load_records(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "record.json").write_text("torn")
    with pytest.raises(UserError, match=r"the first of 1 problems: .*record\.json: not JSON"):
        load_records(tmp_path)
