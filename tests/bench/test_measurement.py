"""Time in turn, memory in fresh processes."""

from __future__ import annotations

import os
import time
from functools import partial

import pytest
import torch

from graphkd.bench import Case, Effort, Settings, Sides, measure
from graphkd.bench.measurement import in_turn, memory_growth

CPU = torch.device("cpu")
MIB = 2**20


def sleeping(baseline_s: float | None, **ours_s: float) -> Sides:
    """Steps that take so long."""
    works = {name: partial(time.sleep, seconds) for name, seconds in ours_s.items()}
    return Sides(None if baseline_s is None else partial(time.sleep, baseline_s), works)


def allocating() -> Sides:
    """A baseline that needs 64 MiB for a moment, and a step that needs nothing."""
    held = torch.ones(8 * MIB)
    return Sides(lambda: torch.ones(16 * MIB).sum(), {"ours": held.sum})


def dying() -> Sides:
    """A step that takes its process with it."""
    return Sides(None, {"ours": partial(os._exit, 1)})


def test_every_side_has_its_turn_in_every_round() -> None:
    order: list[str] = []

    def work(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    works = {"slow": partial(work, "slow", 0.03), "fast": partial(work, "fast", 0.012)}
    seconds = in_turn(works, CPU, Effort(seconds=0, least=3, most=3, full=False))
    assert {name: len(rounds) for name, rounds in seconds.items()} == {"slow": 3, "fast": 3}
    assert order[:4] == ["slow", "slow", "fast", "fast"]  # warm-up
    assert order[4:] == ["slow", "fast", "fast"] * 3
    assert all(each >= 0.03 for each in seconds["slow"])
    assert all(each >= 0.012 for each in seconds["fast"])
    assert min(seconds["fast"]) < 0.024, "those of one call, not of both"


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 2), (60.0, 4)])
def test_the_time_there_is_decides_the_rounds_between_its_bounds(seconds: float, rounds: int) -> None:
    found = in_turn({"work": partial(time.sleep, 0.02)}, CPU, Effort(seconds, least=2, most=4, full=False))
    assert len(found["work"]) == rounds


def test_a_row_compares_medians() -> None:
    case = Case("part", partial(sleeping, 0.03, a=0.01, b=0.02), note="a note", memory="never")
    rows = measure(case, Settings(threads=1), Effort(seconds=0, least=3, most=3, full=True))
    assert [row.case for row in rows] == ["a", "b"]
    for row in rows:
        assert row.part == "part"
        assert row.note == "a note"
        assert row.rounds == 3
        assert row.baseline_mib is None
        assert row.graphkd_mib is None
        assert row.baseline_ms is not None
        assert row.ratio == row.baseline_ms / row.graphkd_ms
        assert row.ratio_min is not None
        assert row.ratio_max is not None
        assert row.ratio_min <= row.ratio <= row.ratio_max
    assert rows[0].graphkd_ms < rows[1].graphkd_ms < 30


def test_without_a_baseline_there_is_no_ratio() -> None:
    case = Case("part", partial(sleeping, None, a=0.001), memory="full")
    (row,) = measure(case, Settings(threads=1), Effort(seconds=0, least=2, most=2, full=False))
    assert row.baseline_ms is row.ratio is row.ratio_min is row.ratio_max is row.graphkd_mib is None
    assert row.graphkd_ms >= 1


def test_measuring_leaves_threads_and_generator_as_they_were() -> None:
    before = torch.get_num_threads(), torch.random.get_rng_state()
    case = Case("part", lambda: Sides(None, {"a": lambda: torch.rand(3)}), memory="never")
    measure(case, Settings(threads=2), Effort(seconds=0, least=1, most=1, full=False))
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])


@pytest.mark.slow
def test_memory_grows_by_what_a_step_needs() -> None:
    case, settings = Case("part", allocating), Settings(threads=1)
    baseline, ours = (memory_growth(case, settings, name) for name in ("baseline", "ours"))
    assert baseline == pytest.approx(64, abs=4)
    assert ours == pytest.approx(0, abs=4)


@pytest.mark.slow
def test_a_step_that_dies_has_no_figure() -> None:
    assert memory_growth(Case("part", dying), Settings(threads=1), "ours") is None
