"""What runs logged by epoch: thinned, and put together over seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graphkd.report.curves import Curve, read_curves
from graphkd.report.metrics import DIAGNOSTICS


def log(folder: Path, lines: list[Any]) -> str:
    """Writes the log of a run, texts as they are."""
    folder.mkdir(parents=True)
    content = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(content)
    return str(folder)


def epoch(number: int, accuracy: float, **more: Any) -> dict[str, Any]:
    """A line of a log."""
    return {"epoch": number, "test": {"top1": accuracy}, "stage": None, **more}


def test_seeds_are_put_together(tmp_path: Path) -> None:
    folders = [log(tmp_path / str(seed), [epoch(1, 10.0 + seed), epoch(2, 20.0 - seed)]) for seed in (0, 2)]
    assert read_curves(folders, 10) == {"test top-1 (%)": Curve((1, 2), (11.0, 19.0), (10.0, 18.0), (12.0, 20.0))}


def test_every_kind_of_value_has_its_name(tmp_path: Path) -> None:
    line = epoch(
        1, 1.0, val={"top1": 2.0}, train_top1=3.0, total=4.0,
        terms={"ce": {"raw": 5.0, "weighted": 9.0}, "hkd.holistic": {"raw": 6.0, "weighted": 9.0}},
        diagnostics={"hkd.teacher_homophily": 7.0, "hkd.holistic.positive_similarity": 8.0},
    )  # fmt: skip
    curves = read_curves([log(tmp_path / "run", [line])], 10)
    assert {name: curve.mean for name, curve in curves.items()} == {
        "test top-1 (%)": (1.0,), "validation top-1 (%)": (2.0,), "train top-1 (%)": (3.0,),
        "loss, weighted sum": (4.0,), "loss of ce": (5.0,), "loss of hkd.holistic": (6.0,),
        "homophily of the teacher's graph": (7.0,), "positive similarity of hkd.holistic": (8.0,),
    }  # fmt: skip


def test_terms_that_share_a_diagnostic_are_told_apart(tmp_path: Path) -> None:
    line = epoch(1, 1.0, diagnostics={"hkd.overlap": 0.25, "second.overlap": 0.75, "hkd.alignment": 0.5})
    curves = read_curves([log(tmp_path / "run", [line])], 10)
    assert {name: curve.mean for name, curve in curves.items() if name != "test top-1 (%)"} == {
        "overlap of the two graphs, hkd": (0.25,), "overlap of the two graphs, second": (0.75,),
        "cosine similarity of student and teacher embeddings": (0.5,),
    }  # fmt: skip


@pytest.mark.parametrize(("epochs", "points"), [(1, 10), (9, 10), (10, 10), (11, 10), (240, 50), (1000, 7)])
def test_long_logs_are_thinned_but_for_their_ends(tmp_path: Path, epochs: int, points: int) -> None:
    folder = log(tmp_path / "run", [epoch(number, float(number)) for number in range(1, epochs + 1)])
    curve = read_curves([folder], points)["test top-1 (%)"]
    assert (curve.epochs[0], curve.epochs[-1]) == (1, epochs)
    assert min(epochs, points // 2) <= len(curve.epochs) <= points + 1
    assert curve.mean == curve.epochs


def test_what_is_logged_now_and_then_is_thinned_by_itself(tmp_path: Path) -> None:
    lines = [
        epoch(number, 1.0, diagnostics={"hkd.overlap": 0.5} if number % 7 == 1 else {}, train_top1=2.0)
        | ({} if number % 3 == 0 else {"test": None})
        for number in range(1, 61)
    ]
    curves = read_curves([log(tmp_path / "run", lines)], 30)
    assert curves[DIAGNOSTICS["overlap"].label].epochs == (1, 8, 15, 22, 29, 36, 43, 50, 57)
    assert curves["test top-1 (%)"].epochs == tuple(range(3, 61, 3))
    assert len(curves["train top-1 (%)"].epochs) == 31


def test_pretraining_has_no_part_in_it(tmp_path: Path) -> None:
    stage = [epoch(number, 99.0, stage="rotation") for number in range(1, 30)]
    curves = read_curves([log(tmp_path / "run", [*stage, epoch(1, 1.0), epoch(2, 2.0)])], 10)
    assert curves["test top-1 (%)"].mean == (1.0, 2.0)


def test_whatever_is_no_finite_number_is_left_out(tmp_path: Path) -> None:
    lines = [
        "\x00\n", "[1]\n", '{"epoch": "1"}\n', "[" * 100_000 + "\n", epoch(1, 1.0, terms=3, val=[], total=True),
        epoch(2, float("nan"), terms={"ce": None, "kd": {"raw": "x"}}), '{"epoch": 3, "test": {"to',
    ]  # fmt: skip
    assert list(read_curves([log(tmp_path / "run", lines)], 10)) == ["test top-1 (%)"]


def test_a_run_without_a_log_has_no_curves(tmp_path: Path) -> None:
    assert read_curves([str(tmp_path)], 10) == {}
    assert read_curves([log(tmp_path / "empty", [])], 10) == {}
