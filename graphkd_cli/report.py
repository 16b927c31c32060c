"""`graphkd report`: run records into tables."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphkd.ablation import Suite
from graphkd.errors import UserError, check, choices, did_you_mean
from graphkd.files import make_folder
from graphkd.report.figures import build_figures, write_figures
from graphkd.report.grid import GridSpec, build_grids
from graphkd.report.load import load_records
from graphkd.report.markup import Table, visible, write_tables
from graphkd.report.profile import build_profiles
from graphkd.report.record import Record, shown
from graphkd.report.statistics import aggregate, left_out
from graphkd.report.tables import TableSpec, build_tables
from graphkd_cli import ablation, compose
from graphkd_cli.show import console, print_block, print_line, print_text

LAYOUTS: dict[str, type[TableSpec] | type[GridSpec]] = {"columns": TableSpec, "grid": GridSpec}
HELP = """\
usage: graphkd report [RESULTS] [--table NAME] [--study NAME] [--baseline VARIANT] [--profile] [--out DIR]

Reads the record of every run below RESULTS (default: results), aggregates over seeds, prints each table and writes it
as CSV (unrounded), Markdown and LaTeX (booktabs); with the default layout a figure of each study too (PNG, SVG).

  --table NAME          a layout of configs/table/ (default: default); table1 is the paper's, with ARI and its figures
  --study NAME          this study alone, in whichever layout
  --baseline VARIANT    test every variant against this one: difference, 95 % interval, p value corrected after Holm
  --profile             where the time of a step goes: data, networks, each term, backward, optimizer
  --out DIR             where to write (default: RESULTS/tables)
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = compose.CommandParser("report")
    parser.add_argument("results", nargs="?", default="results")
    parser.add_argument("--table", default="default")
    parser.add_argument("--study")
    parser.add_argument("--baseline")
    parser.add_argument("--profile", action="store_true")
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
    check(options.out != "", "--out is '', but must be the path of a folder")
    folder = Path(options.results) / "tables" if options.out is None else Path(options.out)
    suites = _suites(records, options.config_dir)
    if options.profile:
        tables = build_profiles(records, _order(suites))
        check(len(tables) > 0, "--profile: no finished run recorded where its time went")
    else:
        tables = _build(records, spec, suites)
        check(len(tables) > 0, f"there is no finished run of a student below '{shown(options.results)}'")
    make_folder(folder)
    for problem in loaded.problems:
        print(visible(f"left out: {problem}"), file=sys.stderr)
    for line in left_out(records):
        print(line, file=sys.stderr)
    _show(tables, folder)
    if not options.profile and isinstance(spec, TableSpec) and spec.name == "default":
        _draw(records, suites, folder)
    return 0


def write_study(results: Path, study: str, suite: Suite | None = None, config_dir: str | None = None) -> None:
    """Print and write the tables of one study, and draws its figures.

    Args:
        results: The results folder.
        study: The study.
        suite: What it ran, where it is a suite's: the order of its variants, its layout, its baseline and its figure's
            axis. A grid shows this study, whichever it is made for.
        config_dir: The user's own configs.

    Raises:
        UserError: There is no such layout, or no run of the study.
    """
    records = _of_study(load_records(results).records, study)
    suites = {} if suite is None else {study: suite}
    folder = results / "tables"
    spec = read_spec("default" if suite is None else suite.table, config_dir)
    _show(_build(records, _for_study(spec, study), suites), folder)
    _draw(records, suites, folder)


def read_spec(name: str, config_dir: str | None = None) -> TableSpec | GridSpec:
    """Return the layout of a name, from the user's own configs or graphkd's.

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
    """Return the layout; a grid of this study, whichever it is made for."""
    return dataclasses.replace(spec, study=study) if isinstance(spec, GridSpec) else spec


def _against(spec: TableSpec | GridSpec, baseline: str, records: Sequence[Record]) -> TableSpec:
    """Return the layout with tests against a baseline that at least one study has."""
    if isinstance(spec, GridSpec):
        raise UserError(f"--baseline: the table '{spec.name}' is a grid, which tests nothing; see --table default")
    rows = aggregate(records)
    known = {name for row in rows for name in (row.variant, row.label)}
    hint = did_you_mean(baseline, known)
    message = f"--baseline: no finished run has the variant '{baseline}'{hint} (choices: {choices(known)})"
    check(baseline in known, message)
    return dataclasses.replace(spec, baseline=baseline)


def _build(records: Sequence[Record], spec: TableSpec | GridSpec, suites: Mapping[str, Suite]) -> list[Table]:
    """Build the tables study by study, each against its suite's baseline unless the layout names one."""
    if isinstance(spec, GridSpec):
        return build_grids(records, spec)
    tables: list[Table] = []
    for study in sorted({record.study for record in records}):
        own = spec
        if spec.baseline is None and study in suites:
            own = dataclasses.replace(spec, baseline=suites[study].baseline)
        tables += build_tables([record for record in records if record.study == study], own, _order(suites))
    return tables


def _suites(records: Sequence[Record], config_dir: str | None) -> dict[str, Suite]:
    """Return the suites that the records come from, by study."""
    found: dict[str, Suite] = {}
    for study in sorted({record.study for record in records} & set(ablation.suite_names(config_dir))):
        try:
            found[study] = ablation.read_suite(study, config_dir)
        except UserError as error:
            print(f"the order of '{study}' is unknown: {error}", file=sys.stderr)
    return found


def _order(suites: Mapping[str, Suite]) -> list[str]:
    """Return variants in the order of their suites."""
    return list(dict.fromkeys(variant for suite in suites.values() for variant in suite.variants))


def _draw(records: Sequence[Record], suites: Mapping[str, Suite], folder: Path) -> None:
    """Draw a figure for each study, pair and data set."""

    def of(study: str) -> list[tuple[str, Any]]:
        suite = suites.get(study)
        own = [record for record in records if record.study == study]
        if suite is None:
            return build_figures(own)
        return build_figures(own, order=list(suite.variants), axis=suite.figure, baseline=suite.baseline)

    studies = sorted({record.study for record in records})
    for path in write_figures((figure for study in studies for figure in of(study)), folder):
        print_line(console(), f"written: {path}")


def _show(tables: Sequence[Table], folder: Path) -> None:
    screen = console()
    for table in tables:
        print_text(screen, table.title)
        for block in table.blocks:
            if block.title:
                print_text(screen, block.title)
            print_block(screen, block, elsewhere="the files below")
        for line in filter(None, (table.caption, table.legend, *table.notes)):
            print_text(screen, line)
    for path in write_tables(tables, folder):
        print_line(screen, f"written: {path}")
