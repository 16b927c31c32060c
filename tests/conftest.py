"""What all tests share: one thread, the same examples in every run, time limits, and no GPU test without a GPU."""

from __future__ import annotations

import copy
import faulthandler
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from graphkd import BUILDERS, DATASETS, GNNS, MODELS, OBJECTIVES

REGISTRIES = (BUILDERS, DATASETS, GNNS, MODELS, OBJECTIVES)
TINY = [
    "trainer.epochs=1", "trainer.threads=1", "teacher_trainer.epochs=1",
    "student={name: resnet8, widths: [2, 2, 4, 4]}",
    "teacher={name: resnet8, widths: [2, 2, 4, 4], train_fraction: 0.1}", "teacher_trainer.threads=1",
]  # fmt: skip

LIMITS = {"soak": 3600, "slow": 900}
"""Seconds that a test of a mark may take; all others have what pyproject.toml says."""
GRACE = 30
"""Seconds after its limit in which a test that the signal reached can end by itself."""

torch.set_num_threads(1)
settings.register_profile("graphkd", derandomize=True, deadline=None, max_examples=25, database=None)
settings.load_profile("graphkd")


def pytest_configure(config: pytest.Config) -> None:
    global stderr
    stderr = os.dup(2)  # during a test, 2 is the file that captures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))
        limit = next((LIMITS[name] for name in LIMITS if item.get_closest_marker(name)), None)
        if limit is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(limit))


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(settings: Any) -> None:
    """Beside the signal, for Python handles none while C code hangs: show all stacks and end the process.

    xdist reports the test as the one that crashed its worker and goes on with a new worker.
    """
    faulthandler.dump_traceback_later(settings.timeout + GRACE, exit=True, file=stderr)


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer() -> None:
    """The test ended in time."""
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def tiny_words() -> list[str]:
    """Overrides with which the commands take a moment."""
    return list(TINY)


@pytest.fixture(scope="session")
def _composed() -> dict[str, Any]:
    from graphkd_cli.compose import compose

    return compose([*TINY, "objective.hkd.dim=8", "negatives=16"]).config


@pytest.fixture
def tiny_config(_composed: dict[str, Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Makes the resolved config of a run of a moment below tmp_path, of HKD+KD with kNN and TAG.

    A mapping replaces values by their dotted path; `...` removes a key.
    """

    def make(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        config = {**copy.deepcopy(_composed), "results": str(tmp_path / "results")}
        for path, value in (changes or {}).items():
            *parents, key = path.split(".")
            node = config
            for parent in parents:
                node = node[parent]
            if value is ...:
                del node[key]
            else:
                node[key] = value
        return config

    return make


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Writes a module that `plugins=[NAME]` finds; what it registers and itself are forgotten after the test."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    names = {registry: registry.names() for registry in REGISTRIES}
    written: list[str] = []

    def write(name: str, source: str) -> Path:
        written.append(name)
        path = folder / f"{name}.py"
        path.write_text(textwrap.dedent(source))
        return path

    yield write
    for name in written:
        sys.modules.pop(name, None)
    for registry in REGISTRIES:
        for name in set(registry.names()) - set(names[registry]):
            del registry._entries[name]
