"""YAML files of users and of other machines, looked over before anything in them is built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from graphkd.errors import UserError, check, one_line
from graphkd.files import read_small

MOST_BYTES = 4 << 20
MOST_VALUES = 100_000
"""With every alias counted as what it stands for: 300 bytes of nested aliases may stand for billions of values."""
DEEPEST = 50
# The C parser is ten times faster, which counts where a report reads the configs of thousands of runs.
_Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        UserError: It is no YAML, or as in `yaml_text`.
    """
    text = yaml_text(path)
    try:
        loader = _Parser(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that cannot be, for example
        raise UserError(f"{path} cannot be read as YAML: {one_line(error)}") from error


def yaml_text(path: Path) -> str:
    """Return a YAML file's text, safe to be loaded by whatever reader: what is no YAML at all is left to that to tell.

    Raises:
        UserError: The file cannot be read or is too large, nested too deep, too long once its aliases are written out,
            or has an alias within what it stands for.
    """
    try:
        text = read_small(path, MOST_BYTES).decode()
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read as YAML: {one_line(error)}") from error
    with suppress(yaml.YAMLError):
        _check_events(yaml.parse(text, Loader=_Parser), path)
    return text


def _check_events(events: Iterator[Any], path: Path) -> None:
    """Count values as they come; `sizes`: those of what has an anchor, `opened`: how many came before what is open."""
    sizes: dict[str | None, int] = {}
    opened: list[tuple[str | None, int]] = []
    count = 0
    for event in events:
        where = f"{path}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            check(event.anchor not in [anchor for anchor, _ in opened], f"{where}: *{event.anchor} stands for itself")
            count += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, count))
            count += 1
            check(len(opened) <= DEEPEST, f"{where}: nested more than {DEEPEST} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            sizes[anchor] = count - before
        check(count <= MOST_VALUES, f"{where}: more than {MOST_VALUES} values, with aliases as what they stand for")
