"""`graphkd report`: run records into tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table as ScreenTable

from graphkd.errors import UserError, check, choices, did_you_mean
from graphkd.report.load import load_records
from graphkd.report.record import Record
from graphkd.report.statistics import left_out
from graphkd.report.tables import Table, TableSpec, build_tables, write_tables
from graphkd_cli import ablation, compose
from graphkd_cli.show import console, print_line

HELP = """\
usage: graphkd report [RESULTS] [--table NAME] [--out DIR] [--config-dir DIR]

Reads the record of every run below RESULTS (default: results), aggregates over seeds, prints each table and writes it
as CSV (unrounded) and Markdown.

  --table NAME     a layout of configs/table/ (default: default)
  --out DIR        where to write (default: RESULTS/tables)
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = compose.CommandParser("report")
    parser.add_argument("results", nargs="?", default="results")
    parser.add_argument("--table", default="default")
    parser.add_argument("--out")
    options = parser.parse_args(list(arguments))
    if options.help:
        print(HELP, end="")
        return 0
    spec = read_spec(options.table, options.config_dir)
    loaded = load_records(options.results)
    for problem in loaded.problems:
        print(f"left out: {problem}", file=sys.stderr)
    for line in left_out(loaded.records):
        print(line, file=sys.stderr)
    tables = build_tables(loaded.records, spec, _order(loaded.records, options.config_dir))
    folder = Path(options.out) if options.out else Path(options.results) / "tables"
    _show(tables, folder)
    return 0


def write_study(results: Path, study: str, order: Sequence[str]) -> None:
    """Prints and writes the tables of one study."""
    loaded = load_records(results)
    records = [record for record in loaded.records if record.study == study]
    _show(build_tables(records, read_spec("default"), order), results / "tables")


def read_spec(name: str, config_dir: str | None = None) -> TableSpec:
    """The layout of a name, from the user's own configs or graphkd's.

    Raises:
        UserError: There is none, or it is not well formed.
    """
    folders = [*([Path(config_dir)] if config_dir else []), compose.config_folder()]
    known = sorted({path.stem for folder in folders for path in (folder / "table").glob("*.yaml")})
    check(name in known, f"there is no table '{name}'{did_you_mean(name, known)} (choices: {choices(known)})")
    return TableSpec.from_mapping(compose.compose([], config_dir, f"table/{name}").config["table"])


def _order(records: Sequence[Record], config_dir: str | None) -> list[str]:
    """Variants in the order of the suites that the records come from."""
    studies = sorted({record.study for record in records} & set(ablation.suite_names(config_dir)))
    order: list[str] = []
    for study in studies:
        try:
            order += ablation.read_suite(study, config_dir).variants
        except UserError as error:
            print(f"the order of '{study}' is unknown: {error}", file=sys.stderr)
    return list(dict.fromkeys(order))


def _show(tables: Sequence[Table], folder: Path) -> None:
    screen = console()
    for table in tables:
        shown = ScreenTable(*table.header)
        for row in table.rows():
            shown.add_row(*row)
        print_line(screen, table.title)
        screen.print(shown)
        for line in (table.caption, *table.notes):
            print_line(screen, line)
    for path in write_tables(tables, folder):
        print_line(screen, f"written: {path}")
