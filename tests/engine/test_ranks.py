"""Two processes against one: what `ranks_worker` computes in each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import forked
import pytest
import ranks_worker
import torch
from torch import Tensor

WORLD = 2
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    port, log = forked.free_port(), folder / "log"
    group = [
        forked.start(ranks_worker.main, [folder], folder, log, log, forked.group(rank, WORLD, port))
        for rank in range(WORLD)
    ]
    assert [forked.wait(process, log.read_text) for process in group] == [0] * WORLD, log.read_text()
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(WORLD)]


def compare(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        elif name == "figures":
            compare_figures(found[name], value)
        else:
            assert found[name] == value


def compare_figures(found: Any, expected: Any) -> None:
    """Nested figures: floats nearly, all else exactly."""
    if isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            compare_figures(found[name], expected[name])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            compare_figures(one, other)
    elif hasattr(expected, "__dict__"):
        compare_figures(vars(found), vars(expected))
    else:
        assert found == expected


@pytest.mark.parametrize("name", [name for name in ranks_worker.cases(Path()) if name != "interrupted"])
def test_two_processes_are_one(name: str, together: list[dict[str, Any]]) -> None:
    alone = ranks_worker.cases(Path())[name]()
    assert len(alone) > 1
    for found in together:
        compare(found[name], alone)


def test_a_sharded_bank_trains_the_same(together: list[dict[str, Any]]) -> None:
    compare(together[0]["training hkd sharded"], together[0]["training hkd"])


def test_one_process_interrupted_all_leave_and_go_on_bit_for_bit(together: list[dict[str, Any]]) -> None:
    for found in together:
        assert found["interrupted"]
        assert all(found["interrupted"].values()), found["interrupted"]
