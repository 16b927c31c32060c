"""`graphkd report`: run records into tables."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table as ScreenTable
from rich.text import Text

from graphkd.errors import UserError, check, choices, did_you_mean
from graphkd.report.grid import GridSpec, build_grids
from graphkd.report.load import load_records
from graphkd.report.markup import Table, write_tables
from graphkd.report.record import Record
from graphkd.report.statistics import aggregate, left_out
from graphkd.report.tables import TableSpec, build_tables
from graphkd_cli import ablation, compose
from graphkd_cli.show import console, print_line

LAYOUTS: dict[str, type[TableSpec] | type[GridSpec]] = {"columns": TableSpec, "grid": GridSpec}
STYLES = {None: "", "best": "bold", "second": "underline"}
HELP = """\
usage: graphkd report [RESULTS] [--table NAME] [--study NAME] [--baseline VARIANT] [--out DIR] [--config-dir DIR]

Reads the record of every run below RESULTS (default: results), aggregates over seeds, prints each table and writes it
as CSV (unrounded), Markdown and LaTeX (booktabs).

  --table NAME          a layout of configs/table/ (default: default); table1 is the paper's, with ARI and its figures
  --study NAME          this study alone, in whichever layout
  --baseline VARIANT    test every variant against this one: difference, 95 % interval, p value corrected after Holm
  --out DIR             where to write (default: RESULTS/tables)
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = compose.CommandParser("report")
    parser.add_argument("results", nargs="?", default="results")
    parser.add_argument("--table", default="default")
    parser.add_argument("--study")
    parser.add_argument("--baseline")
    parser.add_argument("--out")
    options = parser.parse_args(list(arguments))
    if options.help:
        print(HELP, end="")
        return 0
    spec = read_spec(options.table, options.config_dir)
    loaded = load_records(options.results)
    records = loaded.records
    if options.study is not None:
        records = _of_study(records, options.study)
        spec = _for_study(spec, options.study)
    if options.baseline is not None:
        spec = _against(spec, options.baseline, records)
    for problem in loaded.problems:
        print(f"left out: {problem}", file=sys.stderr)
    for line in left_out(records):
        print(line, file=sys.stderr)
    folder = Path(options.out) if options.out else Path(options.results) / "tables"
    _show(_build(records, spec, _order(records, options.config_dir)), folder)
    return 0


def write_study(results: Path, study: str, order: Sequence[str], table: str = "default") -> None:
    """Prints and writes the tables of one study.

    Args:
        results: The results folder.
        study: The study.
        order: Its variants in the order of their rows; a grid has its own order.
        table: The layout, of graphkd's configs; a grid shows this study, whichever it is made for.

    Raises:
        UserError: There is no such layout, or no run of the study.
    """
    records = _of_study(load_records(results).records, study)
    _show(_build(records, _for_study(read_spec(table), study), order), results / "tables")


def read_spec(name: str, config_dir: str | None = None) -> TableSpec | GridSpec:
    """The layout of a name, from the user's own configs or graphkd's.

    Raises:
        UserError: There is none, or it is not well formed.
    """
    folders = [*([Path(config_dir)] if config_dir else []), compose.config_folder()]
    known = sorted({path.stem for folder in folders for path in (folder / "table").glob("*.yaml")})
    check(name in known, f"there is no table '{name}'{did_you_mean(name, known)} (choices: {choices(known)})")
    options = compose.compose([], config_dir, f"table/{name}").config["table"]
    layout = str(options.get("layout", "columns"))
    hint = did_you_mean(layout, LAYOUTS)
    check(layout in LAYOUTS, f"table '{name}' has no layout '{layout}'{hint} (choices: {choices(LAYOUTS)})")
    return LAYOUTS[layout].from_mapping(options)


def _of_study(records: Sequence[Record], study: str) -> list[Record]:
    known = {record.study for record in records if record.kind == "student"}
    hint = did_you_mean(study, known)
    check(study in known, f"there is no run of the study '{study}'{hint} (choices: {choices(known)})")
    return [record for record in records if record.study == study]


def _for_study(spec: TableSpec | GridSpec, study: str) -> TableSpec | GridSpec:
    """The layout; a grid of this study, whichever it is made for."""
    return dataclasses.replace(spec, study=study) if isinstance(spec, GridSpec) else spec


def _against(spec: TableSpec | GridSpec, baseline: str, records: Sequence[Record]) -> TableSpec:
    """The layout with tests against a baseline that at least one study has."""
    if isinstance(spec, GridSpec):
        raise UserError(f"--baseline: the table '{spec.name}' is a grid, which tests nothing; see --table default")
    rows = aggregate(records)
    known = {name for row in rows for name in (row.variant, row.label)}
    hint = did_you_mean(baseline, known)
    message = f"--baseline: no finished run has the variant '{baseline}'{hint} (choices: {choices(known)})"
    check(baseline in known, message)
    return dataclasses.replace(spec, baseline=baseline)


def _build(records: Sequence[Record], spec: TableSpec | GridSpec, order: Sequence[str]) -> list[Table]:
    return build_grids(records, spec) if isinstance(spec, GridSpec) else build_tables(records, spec, order)


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
        print_line(screen, table.title)
        for block in table.blocks:
            shown = ScreenTable(*block.header)
            for row in block.cells:
                shown.add_row(*(Text(cell.text, style=STYLES[cell.mark]) for cell in row))
            if block.title:
                print_line(screen, block.title)
            screen.print(shown)
        for line in (table.caption, table.legend, *table.notes):
            print_line(screen, line)
    for path in write_tables(tables, folder):
        print_line(screen, f"written: {path}")
