"""The parts at tiny sizes: what they compare does the same."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from golden import assert_close

from graphkd.bench import PARTS, Effort, Settings, graph, measure, select_cases
from graphkd.bench.contrast import contrast
from graphkd.bench.graph import ENCODERS, encoder, graph_cases
from graphkd.bench.suite import suite
from graphkd.bench.training import WAYS
from graphkd.errors import UserError

TINY = Settings(
    threads=1, batch=12, samples=240, negatives=40, dim=16, classes=6, k=4, feature_dim=20, teacher="resnet8",
    student="resnet8", larger_batch=16, larger_samples=480, larger_negatives=60,
    largest_samples=960, huge_samples=1200,
)  # fmt: skip
ROWS = {
    "loss": ["explicit", "shared"],
    "contrast": ["explicit", "shared", "all"],
    "sampling": ["explicit", "shared"],
    "data": [
        "images",
        "images in two views",
        "images and negatives",
        "images and negatives, 2 workers in the baseline",
    ],
    "step": [f"{way}{suffix}" for suffix in ("", ", 2 workers in the baseline") for way in WAYS],
    "suite": ["10 methods", "11 methods, SSKD too"],
    "graph": [
        *(f"{name}, B={batch}" for batch in (12, 16) for name in ("knn", *ENCODERS)),
        f"bank_knn, N={TINY.samples}",
    ],
    "growth": [
        "explicit, N=480",
        "shared, N=480",
        "shared, from N=240 to 480",
        "shared, N=480, B=16, K=60",
    ],
    "scale": [
        "N=240, B=12, K=40, float32",
        "N=240, B=16, K=40, float32",
        "N=480, B=12, K=40, float32",
        "N=480, B=12, K=60, float32",
        "N=480, B=12, K=40, bfloat16",
        "N=960, B=12, K=40, bfloat16",
        "N=1,200, B=12, K=40, queue of 160",
        "N=240, B=12, K=40, float32, 2 processes",
        "N=480, B=12, K=40, float32, 2 processes",
    ],
}


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_its_rows(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphkd.bench.training.STEPS", 2)
    cases = [replace(case, memory="never") for case in select_cases(TINY, [part])]
    effort = Effort(seconds=0, least=1, most=1, full=False)
    rows = [row for case in cases for row in measure(case, TINY, effort)]
    assert [row.case for row in rows] == ROWS[part]
    assert {row.part for row in rows} == {part}
    without_baseline = [row.case for row in rows if row.ratio is None]
    assert without_baseline == [
        name for name in ROWS[part] if "K=60" in name or (part == "scale" and "processes" not in name)
    ]


def test_a_side_of_a_suite_makes_its_methods_with_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[str]] = []
    group = SimpleNamespace(step=lambda: None)
    monkeypatch.setattr("graphkd.bench.suite._Group", lambda settings, methods, *_: made.append(methods) or group)
    sides = suite(TINY, ["kd", "hkd"])
    assert made == []
    (together,) = sides.ours.values()
    for work, expected in ((together, [["kd", "hkd"]]), (sides.baseline, [["kd"], ["hkd"]])):
        made.clear()
        assert work is not None
        work()
        work()
        assert made == expected


def test_parts_come_in_the_order_of_the_benchmark() -> None:
    assert [case.part for case in select_cases(TINY, ["sampling", "loss"])] == ["loss", "sampling"]
    assert {case.part for case in select_cases(TINY)} == set(PARTS)


def test_quick_leaves_out_what_is_slow_unless_it_is_named() -> None:
    quick = [case.part for case in select_cases(TINY, quick=True)]
    assert set(quick) == set(PARTS) - {"growth", "scale", "suite"}
    assert quick.count("graph") == 2 + len(ENCODERS)
    assert quick.count("step") == 1
    assert len(select_cases(TINY, ["growth"], quick=True)) == 3


def test_an_unknown_part_is_named_with_the_closest() -> None:
    with pytest.raises(UserError, match=r"no part 'samplings'; did you mean 'sampling'\? \(choices: contrast, data"):
        select_cases(TINY, ["loss", "samplings"])


def test_both_sides_of_the_contrast_have_the_same_gradients() -> None:
    sides = contrast(TINY)
    assert sides.baseline is not None
    for found, expected in zip(sides.ours["explicit"](), sides.baseline(), strict=True):
        assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_both_engines_have_the_same_gradients(name: str) -> None:
    sides = encoder(TINY, name, batch=12)
    assert sides.baseline is not None
    (ours,) = sides.ours.values()
    largest = max(gradient.abs().max() for gradient in sides.baseline())
    for found, expected in zip(ours(), sides.baseline(), strict=True):
        assert (found - expected).abs().max() <= 1e-5 * largest


def test_a_device_that_dgl_does_not_know_has_no_baseline_for_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "dgl_supports", lambda device: False)
    for case in graph_cases(TINY)[:-1]:  # the last, bank_knn, never needs DGL
        assert case.make().baseline is None
        assert "does not know cpu" in case.note


def test_the_input_depends_on_the_seed_alone() -> None:
    same, other = Settings(seed=0), Settings(seed=1)
    draw = partial(torch.equal, Settings().normal("x", 4))
    assert draw(same.normal("x", 4))
    assert not draw(other.normal("x", 4))
    assert not draw(same.normal("y", 4))
