"""Find and read every run record below a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass

from graphkd.errors import UserError, check
from graphkd.report.record import Record, read, shown

RECORD_FILE, CONFIG_FILE, METRICS_FILE = "record.json", "config.yaml", "metrics.jsonl"
SUITE_FILE = "suite.yaml"
"""The suite of a study, in the study's folder: tables need its baseline and order where its own file is not found."""
RUN_FILES = frozenset({CONFIG_FILE, METRICS_FILE, "student.safetensors"})
NOT_RUNS = frozenset({"reference", "tables"})
"""Folders of results that hold no runs."""


@dataclass(frozen=True)
class Loaded:
    """What a folder holds: the records in the order of their paths, and a line for each that was left out.

    `folders` are those of the runs, in the order of the records.
    """

    records: list[Record]
    problems: list[str]
    folders: list[str]

    def of_study(self, study: str | None) -> Loaded:
        """Return the records of a study, and the same problems; of every study for None."""
        pairs = zip(self.records, self.folders, strict=True)
        kept = [(record, place) for record, place in pairs if study in (None, record.study)]
        return Loaded([record for record, _ in kept], self.problems, [place for _, place in kept])


def load_records(folder: str | os.PathLike[str]) -> Loaded:
    """Read every file named `record.json` below a folder, of any kind and status.

    Direct children named `reference` (published results, kept by git) and `tables` are skipped. Links are not
    followed; those that lead out of the folder are among the problems, as are folders of a run without a record.

    Args:
        folder: The results folder, or any folder inside it.

    Raises:
        UserError: There is no such folder, or no readable record below it.
    """
    check(os.path.isdir(folder), f"there is no results folder '{shown(folder)}'")
    paths, problems = _find(os.fspath(folder))
    records, folders = [], []
    for path in paths:
        try:
            records.append(read(path))
            folders.append(os.path.dirname(path))
        except UserError as error:
            problems.append(str(error))
    problems.sort()
    first = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
    check(bool(records), f"no readable {RECORD_FILE} below '{shown(folder)}'{first}")
    return Loaded(records, problems, folders)


def _find(root: str) -> tuple[list[str], list[str]]:
    """Return the paths of all record files below `root`, sorted, and what stood in the way."""
    paths: list[str] = []
    problems: list[str] = []
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            problems.append(f"{shown(folder)}: cannot be read ({error.strerror})")
            continue
        for entry in entries:
            if entry.is_symlink():
                if _leads_out(entry, root):
                    problems.append(f"{shown(entry.path)}: a link out of the results folder, not followed")
            elif entry.is_dir():
                if folder != root or entry.name not in NOT_RUNS:
                    pending.append(entry.path)
            elif entry.name == RECORD_FILE:
                paths.append(entry.path)
        names = {entry.name for entry in entries}
        if RECORD_FILE not in names and names & RUN_FILES:
            problems.append(f"{shown(folder)}: a run without {RECORD_FILE}")
    return sorted(paths), problems


def _leads_out(link: os.DirEntry[str], root: str) -> bool:
    """Return whether a link that could hold records points outside `root`."""
    if link.name != RECORD_FILE and not os.path.isdir(link.path):
        return False
    inside = os.path.join(os.path.realpath(root), "")
    return not os.path.join(os.path.realpath(link.path), "").startswith(inside)
