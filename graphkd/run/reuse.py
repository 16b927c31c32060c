"""Why a finished run is used again, or is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphkd.errors import UserError
from graphkd.report import record as records
from graphkd.report.record import Record
from graphkd.run.folder import CONFIG, RECORD, read_config


def changed_plugins(record: Record, now: Mapping[str, str]) -> tuple[str, ...]:
    """Return the modules from outside graphkd whose source is another than when a run was made.

    Args:
        record: The finished run's.
        now: The source hashes of the modules as they are.
    """
    then = record.code.plugins
    return tuple(module for module, source in sorted(now.items()) if then.get(module, source) != source)


def why_not_reused(folder: Path, identity: str, seed: int, identify: Callable[[Mapping[str, Any]], str]) -> str | None:
    """Say why an earlier run is not used again although its config is the same, in one line; None without such a run.

    Args:
        folder: Where the new run is kept: <...>/<identity>/seed-<seed>.
        identity: The new run's.
        seed: Likewise.
        identify: The identity that a config has today.
    """
    for file in sorted(folder.parent.parent.glob(f"*/seed-{seed}/{RECORD}")):
        place = file.parent
        try:
            record = records.read(file)
            config = {**read_config(place / CONFIG), "run_dir": None}
            same = record.status == "done" and record.identity != identity and identify(config) == identity
        except UserError:  # of an unfinished or older graphkd's run, or of files that are gone
            continue
        if same:
            return (
                f"{place} has the same config, but is not reused: the contents of its files differ, or "
                f"graphkd {record.code.version}, which made it, identified runs in another way (see CHANGELOG)"
            )
    return None
