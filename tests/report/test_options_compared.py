"""What the configs of rows differ in."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphkd.report.configs import compare_options, read_options


def test_options_have_dotted_names_without_those_that_name_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "variant: a\nseed: 1\nresults: x\ntrainer: {lr: 0.1, decay_at: [1, 2], seed: 2}\nbank: {}\nname: null\n"
        "flag: true\n"
    )
    assert read_options(str(tmp_path)) == {
        "trainer.lr": "0.1", "trainer.decay_at": "[1, 2]", "trainer.seed": "2", "bank": "{}", "name": "null",
        "flag": "true",
    }  # fmt: skip


@pytest.mark.parametrize("content", ["[1]", "a: [", "a: &a [*a]", "a: 2024-13-45", "\x00", "[" * 10_000])
def test_an_unreadable_config_has_no_options(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    assert read_options(str(tmp_path)) == {}
    assert read_options(str(tmp_path / "missing")) == {}


def test_what_differs_stands_side_by_side_before_what_is_absent_and_the_unusual_is_marked() -> None:
    block, shared, notes = compare_options({
        "a": {"k": "8", "lr": "0.1", "epochs": "3"}, "b": {"lr": "0.2", "epochs": "3"},
        "c": {"lr": "0.1", "k": "8", "epochs": "3"}, "old": {},
    }, 60)  # fmt: skip
    assert block.header == ("option", "a", "b", "c")
    assert block.rows() == [["lr", "0.1", "0.2", "0.1"], ["k", "8", "—", "8"]]
    assert [[cell.mark for cell in row] for row in block.cells] == [[None, None, "best", None], [None] * 4]
    assert shared == {"epochs": "3"}
    assert notes == ["The configs of 1 variant cannot be read."]


def test_a_single_row_differs_in_nothing() -> None:
    block, shared, notes = compare_options({"a": {"k": "8"}}, 60)
    assert (block.cells, shared, notes) == ((), {"k": "8"}, [])


def test_rows_that_are_not_shown_are_compared_too() -> None:
    options = {f"v{number}": {"lr": "0.1" if number < 3 else "0.9", "k": "8"} for number in range(4)}
    block, shared, notes = compare_options(options, 2)
    assert block.header == ("option", "v0", "v1")
    assert block.rows() == [["lr", "0.1", "0.1"]]
    assert shared == {"k": "8"}
    assert notes == ["The first 2 of 4 variants are shown; all are compared."]
