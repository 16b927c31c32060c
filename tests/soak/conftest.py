"""The soak tests proper run by `make soak` alone; what is not marked so is part of the ordinary suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from crashes import Machine


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak: kills many real runs, for minutes (`make soak`)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: make soak"))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Runs real processes, and ends them suddenly."""
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    return Machine(tmp_path)
