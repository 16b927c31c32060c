"""record.json: what is written is what is read, and nothing else is accepted."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphkd.errors import UserError
from graphkd.report.load import load_records
from graphkd.report.metrics import DIAGNOSTICS
from graphkd.report.record import ADDED, LARGEST_BYTES, Code, Metrics, Record, Teacher, Term, read, write

FIELDS = [
    "schema", "kind", "status", "study", "variant", "pair", "data", "content", "varied", "identity", "seed",
    "teacher", "versions", "code", "device", "threads", "duration_s", "seconds_per_step", "peak_memory_mib", "metrics",
    "phases", "group_size", "protocol", "error",
]  # fmt: skip
METRICS = [
    "test_top1_last", "test_top1_at_best_val", "val_top1_best", "test_top1_max", "test_top5_last",
    "test_nll_last", "agreement_last", "terms", "diagnostics",
]  # fmt: skip


def make_record(**changes: Any) -> Record:
    """A finished run; names of metrics and diagnostics may be given beside the fields of the record."""
    metrics = {"test_top1_last": 90.0, "test_top1_max": 91.0, "test_nll_last": 0.3, "agreement_last": 92.0}
    metrics |= {name: changes.pop(name) for name in METRICS if name in changes}
    explained = {f"hkd.{name}": changes.pop(name) for name in DIAGNOSTICS if name in changes}
    metrics |= {"diagnostics": explained} if explained else {}
    fields: dict[str, Any] = {
        "kind": "student", "status": "done", "study": "suite", "variant": "hkd", "pair": "large->small",
        "varied": {}, "identity": "1a2b", "seed": 0, "teacher": Teacher("feed", 97.5),
        "versions": {"torch": "2.2"}, "code": Code("0.1.0", "abc123", False), "device": "cpu", "threads": 2,
        "duration_s": 12.5, "seconds_per_step": 0.01, "peak_memory_mib": 512.0, "metrics": Metrics(**metrics),
    }  # fmt: skip
    return Record(**(fields | changes))


def changed(path: str, value: Any) -> str:
    """The JSON text of a record in which the field at a dotted path has another value."""
    document = json.loads(make_record(metrics=Metrics(test_top1_last=90.0, terms={"kd": Term(1.0, 0.9)})).to_json())
    *parents, last = path.split(".")
    inside = document
    for name in parents:
        inside = inside[name]
    inside[last] = value
    return json.dumps(document)


names = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=20)
texts = st.text(max_size=10)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
metrics = st.builds(
    Metrics,
    **{name: numbers for name in METRICS if name not in ("terms", "diagnostics", "test_top1_last")},
    test_top1_last=st.floats(0, 100),
    terms=st.dictionaries(texts, st.builds(Term, numbers, numbers), max_size=3),
    diagnostics=st.dictionaries(texts, numbers, max_size=3),
)
records = st.builds(
    Record,
    kind=st.sampled_from(["student", "teacher"]),
    status=st.sampled_from(["running", "done", "failed"]),
    study=names, variant=names, pair=names, data=st.none() | names, identity=names,
    varied=st.dictionaries(texts, values, max_size=3),
    seed=st.integers(),
    teacher=st.none() | st.builds(Teacher, texts, numbers),
    versions=st.dictionaries(texts, texts, max_size=3),
    code=st.builds(
        Code, texts, st.none() | texts, st.none() | st.booleans(), st.dictionaries(texts, texts, max_size=2)
    ),
    device=texts, threads=st.integers(),
    duration_s=numbers, seconds_per_step=numbers, peak_memory_mib=numbers,
    metrics=metrics, error=st.none() | texts,
)  # fmt: skip


@given(records)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    text = record.to_json()
    assert Record.from_json(text) == record
    assert Record.from_json(text.encode()).to_json() == text


@given(values)
def test_whatever_is_read_is_a_record_or_the_users_mistake(value: Any) -> None:
    with pytest.raises(UserError, match=r"^some/record\.json: [^\n]+$"):
        Record.from_json(json.dumps(value), "some/record.json")


@given(st.sampled_from([*FIELDS, *(f"metrics.{name}" for name in METRICS)]), values)
def test_any_value_in_any_field_is_read_or_refused_in_one_line(path: str, value: Any) -> None:
    reason = ""
    try:
        record = Record.from_json(changed(path, value))
    except UserError as error:
        reason = str(error)
    else:
        assert Record.from_json(record.to_json()) == record
    assert len(reason.splitlines()) <= 1
    assert len(reason) < 250


@given(st.binary(max_size=50))
def test_any_bytes_are_refused_as_the_users_mistake(content: bytes) -> None:
    with pytest.raises(UserError):
        Record.from_json(content)


@given(
    st.dictionaries(
        st.lists(st.sampled_from(["a", "b\n", "reference", "record.json.tmp"]), max_size=3).map(tuple),
        st.binary(max_size=80) | values.map(lambda value: json.dumps(value).encode()),
        max_size=4,
    ),
    st.booleans(),
)
def test_a_folder_of_any_bytes_is_read_or_refused_in_one_line(
    contents: dict[tuple[str, ...], bytes], good: bool
) -> None:
    with tempfile.TemporaryDirectory() as root:
        for parents, content in contents.items():
            folder = Path(root, *parents)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "record.json").write_bytes(content)
        if good:
            Path(root, "good").mkdir()
            write(make_record(), Path(root, "good", "record.json"))
            loaded = load_records(root)
            assert loaded.records == [make_record()]
            assert all(len(problem.splitlines()) == 1 for problem in loaded.problems)
        else:
            with pytest.raises(UserError) as caught:
                load_records(root)
            assert len(str(caught.value).splitlines()) == 1


def test_the_format_has_exactly_the_fields_of_schema_1() -> None:
    document = json.loads(make_record(terms={"kd": Term(1.5, 1.35)}).to_json())
    assert list(document) == FIELDS
    assert list(document["metrics"]) == METRICS
    assert document["schema"] == 1
    assert document["teacher"] == {"identity": "feed", "accuracy": 97.5}
    assert document["code"] == {"version": "0.1.0", "git": "abc123", "dirty": False, "plugins": {}}
    assert document["metrics"]["terms"] == {"kd": {"raw": 1.5, "weighted": 1.35}}


def test_numbers_that_are_not_finite_become_null() -> None:
    record = make_record(test_nll_last=math.nan, seconds_per_step=math.inf, terms={"kd": Term(-math.inf, math.nan)})
    back = Record.from_json(record.to_json())
    assert back.metrics.test_nll_last is None
    assert back.seconds_per_step is None
    assert back.metrics.terms["kd"] == Term(None, None)


@pytest.mark.parametrize(
    "path",
    [
        *sorted({*FIELDS} - ADDED),
        *sorted({f"metrics.{name}" for name in METRICS} - ADDED),
        "code.git",
        "teacher.accuracy",
    ],
)
def test_a_missing_field_is_named(path: str) -> None:
    document = json.loads(make_record().to_json())
    *parents, last = path.split(".")
    inside = document
    for name in parents:
        inside = inside[name]
    del inside[last]
    with pytest.raises(UserError, match=rf"^here: .*'{path}' is") as caught:
        Record.from_json(json.dumps(document), "here")
    assert "missing" in str(caught.value) or path == "schema"


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("schema", 2, "'schema' is 2, but this graphkd reads schema 1"),
        ("schema", True, "'schema' is True"),
        ("schema", "1", "'schema' is '1'"),
        ("kind", "pupil", "'kind' is 'pupil', but must be one of student, teacher"),
        ("status", None, "'status' is None"),
        ("study", 3, "'study' is 3, but must be text"),
        ("study", "", "'study' is ''"),
        ("data", 3, "'data' is 3, but must be text"),
        ("data", "", "'data' is ''"),
        ("variant", "a\nb", r"'variant' is 'a\\nb'"),
        ("identity", "x" * 301, "'identity' is 'x"),
        ("varied", [], "'varied' is [], but must be a mapping"),
        ("seed", 1.0, "'seed' is 1.0, but must be an integer"),
        ("seed", True, "'seed' is True"),
        ("teacher", "resnet", "'teacher' is 'resnet', but must be an object"),
        ("teacher.accuracy", "97", "'teacher.accuracy' is '97', but must be a finite number"),
        ("versions", {"torch": 2}, "'versions.torch' is 2, but must be text"),
        ("code", None, "'code' is None, but must be an object"),
        ("code.dirty", "no", "'code.dirty' is 'no', but must be true or false"),
        ("duration_s", False, "'duration_s' is False, but must be a finite number"),
        ("duration_s", 10**400, "'duration_s' is 1000"),
        ("metrics.test_top1_last", None, "'metrics.test_top1_last' is null, but the run is done"),
        ("metrics.terms.kd", 1.0, "'metrics.terms.kd' is 1.0, but must be an object"),
        ("metrics.terms.kd.raw", [1.0], "'metrics.terms.kd.raw' is [1.0], but must be a finite number"),
        ("error", 5, "'error' is 5, but must be text"),
    ],
)
def test_a_wrong_value_is_named_with_its_field(path: str, value: Any, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        Record.from_json(changed(path, value), "here")
    assert str(caught.value).startswith("here: " + reason.replace(r"\\", "\\"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not JSON"),
        (make_record().to_json()[:200], "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"\x00" * 4096, "not JSON"),
        (make_record().to_json().replace("0.3", "NaN"), "not JSON (ValueError: NaN is no JSON number)"),
        (make_record().to_json().replace("0.3", "1e999"), "'metrics.test_nll_last' is inf"),
        (make_record().to_json().replace("0.3", "9" * 5000), "not JSON"),
        ("[1, 2]", "holds [1, 2], but must hold a JSON object"),
        ("null", "holds None"),
        ("[" * 100_000, "not JSON"),
        ('{"a": ' * 50 + "1" + "}" * 50, "nested more than 32 levels deep"),
        (make_record().to_json().replace("{", '{"seed": 7,', 1), "not JSON (ValueError: the key 'seed' stands twice)"),
    ],
    ids=range(12),
)
def test_what_is_no_record_is_refused_in_one_line(content: str | bytes, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        Record.from_json(content, "here")
    assert str(caught.value).startswith(f"here: {reason}")
    assert "\n" not in str(caught.value)


def test_records_from_before_the_data_set_was_noted_are_read() -> None:
    document = json.loads(make_record(data="digits").to_json())
    assert Record.from_json(json.dumps(document)).data == "digits"
    del document["data"]
    del document["phases"]
    assert Record.from_json(json.dumps(document)) == make_record()
    assert make_record().data is None


def test_fields_of_later_versions_are_ignored() -> None:
    assert Record.from_json(changed("profile", {"data": 0.1})).metrics.test_top1_last == 90.0


def test_a_running_or_failed_run_needs_no_metrics() -> None:
    for status in ("running", "failed"):
        record = make_record(status=status, metrics=Metrics(), duration_s=None)
        assert Record.from_json(record.to_json()) == record


def test_a_file_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write(make_record(status="running", metrics=Metrics()), path)
    write(make_record(), path)
    assert read(path) == make_record()
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_record_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with pytest.raises(UserError, match="'study' is ''"):
        write(make_record(study=""), path)
    assert os.listdir(tmp_path) == []


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json: cannot be read \(No such file"):
        read(tmp_path / "absent.json")
    with pytest.raises(UserError, match="not a regular file"):
        read(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "record.json")
    with pytest.raises(UserError, match="not a regular file"):
        read(tmp_path / "record.json")


def test_a_huge_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="larger than 4 MiB"):
        read(path)
    path.write_text(make_record().to_json() + " " * (LARGEST_BYTES - 2000))
    assert read(path) == make_record()


def test_a_path_that_cannot_be_printed_is_escaped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\\nb'?: cannot be read"):
        read(tmp_path / "a\nb")


def test_a_record_is_changed_by_replacing(tmp_path: Path) -> None:
    done = dataclasses.replace(make_record(status="running"), status="done", duration_s=3.0)
    assert (done.status, done.duration_s) == ("done", 3.0)


def test_a_record_from_before_plug_ins_were_hashed_is_read() -> None:
    document = json.loads(make_record().to_json())
    del document["code"]["plugins"]
    assert Record.from_json(json.dumps(document)).code.plugins == {}
