"""What the tests of commands say about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from graphkd.report import record as records
from graphkd.report.record import Record


class Answer(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]
"""Calls `graphkd WORD ...` in this process."""
OwnConfigs = Callable[[dict[str, str]], Path]
"""Writes a user's own configs, by their path below the folder that it returns."""
Plugin = Callable[[str, str], Path]
"""Writes a module that `plugins=[NAME]` finds."""


def students(folder: Path) -> dict[Path, Record]:
    """Every student's record below a folder, by its own folder."""
    found = {path.parent: records.read(path) for path in sorted(folder.rglob("record.json"))}
    return {place: record for place, record in found.items() if record.kind == "student"}


def top(folder: Path) -> set[str]:
    """What a folder holds."""
    return {path.name for path in folder.iterdir()}
