"""`graphkd list`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from graphkd.binding import describe
from graphkd.errors import check, choices, did_you_mean
from graphkd_cli import compose

KINDS = ("builders", "gnns", "objectives", "models", "data", "suites")
HELP = f"""\
usage: graphkd list [{"|".join(KINDS)}] [--config-dir DIR]

Every part with its options and their defaults; every suite.
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = compose.CommandParser("list")
    parser.add_argument("kinds", nargs="*")
    options = parser.parse_args(list(arguments))
    if options.help:
        print(HELP, end="")
        return 0
    for kind in options.kinds:
        check(kind in KINDS, f"there is no list '{kind}'{did_you_mean(kind, KINDS)} (choices: {choices(KINDS)})")

    from graphkd_cli.show import console, print_line

    for kind in options.kinds or KINDS:
        table = _suites(options.config_dir) if kind == "suites" else _parts(kind)
        print_line(console(), kind)
        console().print(table)
    return 0


def _parts(kind: str) -> Table:
    registry = _registry(kind)
    table = Table("name", "what it is", "options (default)", show_lines=True)
    for name in registry.names():
        options = [
            f"{option.name} ({'required' if option.required else _yaml(option.default)}): {describe(option.annotation)}"
            for option in registry.options(name).values()
        ]
        table.add_row(name, registry.summary(name), "\n".join(options) or "none")
    return table


def _suites(config_dir: str | None) -> Table:
    from graphkd_cli.ablation import read_suite, suite_names

    table = Table("name", "what it shows", "variants", "seeds")
    for name in suite_names(config_dir):
        suite = read_suite(name, config_dir)
        table.add_row(name, suite.description, str(len(suite.variants)), str(len(suite.seeds)))
    return table


def _registry(kind: str) -> Any:
    import graphkd

    names = {"builders": "BUILDERS", "gnns": "GNNS", "objectives": "OBJECTIVES", "models": "MODELS", "data": "DATASETS"}
    return getattr(graphkd, names[kind])


def _yaml(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    if isinstance(value, (bool, type(None))):
        return words[value]
    return str(list(value)) if isinstance(value, (list, tuple)) else str(value)
