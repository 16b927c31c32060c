"""What all tests share: one thread, the same examples in every run, time limits, and a GPU for GPU tests alone.

Nothing heavy is imported here: the process that hands the tests out to others never needs it.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

pytest_plugins = ["limits"]
TINY = [
    "trainer.epochs=1", "trainer.threads=1", "teacher_trainer.epochs=1",
    "student={name: resnet8, widths: [2, 2, 4, 4]}",
    "teacher={name: resnet8, widths: [2, 2, 4, 4], train_fraction: 0.1}", "teacher_trainer.threads=1",
]  # fmt: skip

settings.register_profile("graphkd", derandomize=True, deadline=None, max_examples=25, database=None)
settings.load_profile("graphkd")


def pytest_configure() -> None:
    """Hear Ctrl-C, which a shell turns off for what it runs in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Start one process more than there are cores, for many tests wait for processes that they start."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    torch.set_num_threads(1)
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


def pytest_runtest_setup() -> None:
    """Start torch's generator alike in every test, whatever ran before it in this process."""
    import torch

    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Hide a machine's GPUs from a test that is not for them, from its fixtures and from the processes it starts."""
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("gpu") is None:
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
            patch.setattr("torch.cuda.is_available", lambda: False)
        return (yield)


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
    from graphkd import BUILDERS, DATASETS, DISCREPANCIES, GNNS, MODELS, OBJECTIVES, RELATIONS

    registries = (BUILDERS, DATASETS, DISCREPANCIES, GNNS, MODELS, OBJECTIVES, RELATIONS)
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    names = {registry: registry.names() for registry in registries}
    written: list[str] = []

    def write(name: str, source: str) -> Path:
        written.append(name)
        path = folder / f"{name}.py"
        path.write_text(textwrap.dedent(source))
        return path

    yield write
    for name in written:
        sys.modules.pop(name, None)
    for registry in registries:
        for name in set(registry.names()) - set(names[registry]):
            del registry._entries[name]
