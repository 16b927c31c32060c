"""Runs commands in this process, each in an empty folder of its own."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Answer, Command, OwnConfigs

from graphkd_cli.main import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder that the command runs in."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def command(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Calls `graphkd WORD ...`."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setattr("graphkd_cli.launch.cores", lambda: 1)  # suites run in this process
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # as the command sets it, and gone afterwards
    before, root = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}, logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def call(*words: str) -> Answer:
        capsys.readouterr()
        code = main(words)
        return Answer(code, *capsys.readouterr())

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)
    root.handlers[:] = handlers  # Hydra's own --info logs to a stream that is gone after the test
    root.setLevel(level)


@pytest.fixture
def own_configs(tmp_path: Path) -> OwnConfigs:
    """Writes a user's own configs, by their path below the folder that it returns."""

    def write(files: dict[str, str]) -> Path:
        place = tmp_path / "my configs"
        for path, content in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(content)
        return place

    return write
