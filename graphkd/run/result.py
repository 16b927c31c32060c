"""What a run gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graphkd.report.record import Record


@dataclass(frozen=True)
class RunResult:
    """Result of a run: its record, its folder, and whether a finished run was reused."""

    record: Record
    folder: Path
    reused: bool
    changed: tuple[str, ...] = ()
    """Plug-in modules whose source has changed since a reused run was made."""
