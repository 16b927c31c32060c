"""What the configs of rows differ in, and what they share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphkd.errors import UserError, counted
from graphkd.report.load import CONFIG_FILE
from graphkd.report.markup import NONE, Block, Cell
from graphkd.yaml_files import read_yaml

ASIDE = frozenset({"run_dir", "results", "study", "variant", "varied", "seed", "force", "student_weights"})
"""Options that name a run instead of saying how it is trained."""


def read_options(folder: str) -> dict[str, str]:
    """Return the options of a run by their dotted names, values as JSON; none if its config cannot be read."""
    try:
        config = read_yaml(Path(folder, CONFIG_FILE))
    except UserError:
        return {}
    return dict(_flat(config)) if isinstance(config, dict) else {}


def compare_options(options: Mapping[str, Mapping[str, str]], most: int) -> tuple[Block, dict[str, str], list[str]]:
    """Return the options in which rows differ, and those that are the same in all.

    Args:
        options: Options by the label of the row; rows without any are left out.
        most: How many rows to show beside each other; all are compared.

    Returns:
        A block with a line for each option and a column for each row, in which what is not the usual value of the line
        is marked, options that are merely absent in some rows last; the shared options; and what is left out, in words.
    """
    known = {label: of for label, of in options.items() if of}
    names = dict.fromkeys(name for of in known.values() for name in of)
    values = {name: [of.get(name, NONE) for of in known.values()] for name in names}
    differing = [name for name, of in values.items() if len(set(of)) > 1]
    differing.sort(key=lambda name: len(set(values[name]) - {NONE}) < 2)
    lines = [[Cell(name), *_marked(values[name])][: most + 1] for name in differing]
    unread, hidden = len(options) - len(known), len(known) - most
    notes = [
        *([f"The configs of {counted(unread, 'variant')} cannot be read."] if unread else []),
        *([f"The first {most} of {len(known)} variants are shown; all are compared."] if hidden > 0 else []),
    ]
    shared = {name: of[0] for name, of in values.items() if name not in differing}
    return Block.of(("option", *list(known)[:most]), lines), shared, notes


def _marked(values: Sequence[str]) -> Iterator[Cell]:
    ((usual, _),) = Counter(values).most_common(1)
    yield from (Cell(value, None if value in (usual, NONE) else "best") for value in values)


def _flat(config: Mapping[Any, Any], inside: str = "") -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        if not inside and name in ASIDE:
            continue
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{inside}{name}.")
        else:
            yield f"{inside}{name}", value if isinstance(value, str) else json.dumps(value, default=str)
