"""Reasons for reusing a finished run or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphkd.errors import UserError
from graphkd.report.record import Record
from graphkd.report.record import read as read_record
from graphkd.run.folder import CONFIG, RECORD, read_config
from graphkd.run.part import is_own, source_hash


def changed_plugins(record: Record, now: Mapping[str, str]) -> tuple[str, ...]:
    """Return the modules with parts whose source has changed since a run was made, as far as that can be told.

    Args:
        record: The run's record.
        now: The current hashes of the run's modules (`graphkd.run.part.source_hashes`).
    """
    then = record.code.plugins
    # What a record from a checkout does not name, of graphkd's own, was committed then.
    before = {module: "" for module in now if is_own(module) and record.code.git is not None} | then
    changed = {module for module, source in now.items() if before.get(module, source) != source}
    committed = {module for module in then.keys() - now.keys() if is_own(module)}
    return tuple(sorted(changed | {module for module in committed if source_hash(module) not in (None, then[module])}))


def why_not_reused(folder: Path, identity: str, seed: int, identify: Callable[[Mapping[str, Any]], str]) -> str | None:
    """Return, in one line, why an earlier run with the same config is not reused; None without such a run.

    Args:
        folder: The new run's folder: <...>/<identity>/seed-<seed>.
        identity: The new run's identity.
        seed: The new run's seed.
        identify: Returns the identity of a config.
    """
    for file in sorted(folder.parent.parent.glob(f"*/seed-{seed}/{RECORD}")):
        place = file.parent
        try:
            record = read_record(file)
            config = {**read_config(place / CONFIG), "run_dir": None}
            same = record.status == "done" and record.identity != identity and identify(config) == identity
        except UserError:  # a run that is unfinished, of an older graphkd, or whose files are gone
            continue
        if same:
            return (
                f"{place} has the same config, but is not reused: the contents of its files differ, or "
                f"graphkd {record.code.version}, which made it, identified runs in another way (see CHANGELOG)"
            )
    return None
