"""The table, the files, and what they say about the machine."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

from graphkd.bench import Results, Row, Settings, hardware
from graphkd.bench.results import HEADER
from graphkd.errors import UserError

ROWS = [
    Row("loss", "shared", 1234.5678, 20.05, 61.57445, 55.0, 70.25, 1090.4, 19.96, 9, "of the loss"),
    Row("growth", "N=1, K=2", None, 0.01234, None, None, None, None, 0.0, 3, "of growth"),
    Row("growth", "N=2", 1.0, 2.0, 0.5, 0.25, 1.0, None, None, 3, ""),
]


@pytest.fixture
def results() -> Results:
    return Results(ROWS, Settings(threads=1), "graphkd bench --quick", hardware(Settings(threads=1)))


def test_cells_are_rounded_to_three_digits(results: Results) -> None:
    assert results.cells() == [
        ["loss", "shared", "1,235", "20.1", "61.6", "55 to 70.2", "1,090", "20"],
        ["growth", "N=1, K=2", "-", "0.0123", "-", "", "-", "0"],
        ["growth", "N=2", "1", "2", "0.5", "0.25 to 1", "-", "-"],
    ]
    assert all(len(cells) == len(HEADER) for cells in results.cells())


def test_csv_is_unrounded_and_empty_where_there_is_nothing(results: Results) -> None:
    first, second, _ = csv.DictReader(io.StringIO(results.csv()))
    assert float(first["baseline_ms"]) == 1234.5678
    assert (second["case"], second["baseline_ms"], second["ratio"]) == ("N=1, K=2", "", "")


def test_json_holds_everything(results: Results) -> None:
    document = json.loads(results.json())
    assert document["schema"] == 1
    assert document["command"] == "graphkd bench --quick"
    assert document["settings"]["samples"] == 50_000
    assert [Row(**row) for row in document["rows"]] == ROWS
    assert document["hardware"]["threads"] == 1
    assert {"python", "torch", "dgl", "graphkd"} <= set(document["hardware"]["versions"])


def test_markdown_shows_table_machine_and_notes(results: Results) -> None:
    text = results.markdown()
    assert "| loss | shared | 1,235 | 20.1 | 61.6 | 55 to 70.2 | 1,090 | 20 |" in text
    assert "`graphkd bench --quick`" in text
    assert results.hardware["cpu"] in text
    assert "- loss: of the loss\n- growth: of growth\n" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_the_hardware_is_this_machine() -> None:
    found = hardware(Settings(threads=2))
    assert found["cpu"]
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert found["device"] == "cpu"
    assert found["load"] >= 0


def test_files_are_written_into_a_new_folder(results: Results, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "bench"
    paths = results.write(folder)
    assert [path.name for path in paths] == ["bench.csv", "bench.json", "bench.md"]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert (folder / "bench.md").read_text() == results.markdown()


def test_a_folder_that_cannot_be_made_is_the_users_mistake(results: Results, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        results.write(tmp_path / "file" / "bench")
