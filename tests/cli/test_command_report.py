from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from commands import Command, OwnConfigs, students, top

from graphkd.report import record as records
from graphkd_cli.main import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_words: list[str]) -> Path:
    """Two variants of two seeds, and a teacher."""
    place = tmp_path_factory.mktemp("finished")
    for objective in ("kd", "ce"):
        words = ["run", "-m", f"objective={objective}", "seed=0,1", f"results={place}", *tiny_words]
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
    assert top(results / "tables") == {table.name, table.with_suffix(".md").name}
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
    assert {path.suffix for path in (folder / "elsewhere").iterdir()} == {".csv", ".md"}
    assert not (results / "tables").exists()


def test_a_layout_of_ones_own(command: Command, folder: Path, results: Path, own_configs: OwnConfigs) -> None:
    own = own_configs({"table/short.yaml": "name: short\ncolumns: [test_nll_last]\n"})
    code, out, _ = command("report", "results", "--table", "short", "--config-dir", str(own))
    assert code == 0
    assert "NLL" in out
    assert "test top-1, last" not in out


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
