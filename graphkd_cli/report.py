"""`graphkd report`: tables from run records."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from graphkd.errors import UserError, check, one_of
from graphkd.files import make_folder
from graphkd.report.caveats import left_out
from graphkd.report.grid_spec import GridSpec
from graphkd.report.load import load_records
from graphkd.report.markup import visible
from graphkd.report.record import Record, shown
from graphkd.report.rows import aggregate
from graphkd.report.tables import TableSpec
from graphkd_cli import studies
from graphkd_cli.arguments import CommandParser

HELP = """\
usage: graphkd report [RESULTS] [--table NAME] [--study NAME] [--variants A,B] [--baseline VARIANT]
                      [--profile] [--html] [--out DIR]

Reads the record of every run below RESULTS (default: results), aggregates over seeds, prints each table and writes it
as CSV (unrounded), Markdown and LaTeX; the default layout adds figures of each study (PNG, SVG).

  --table NAME          a layout of configs/table/ (default: default); table1 is the paper's, with ARI;
                        graphs compares the graphs: homophily, overlap, neighbours, with a figure
  --study NAME          only this study, in any layout
  --variants A,B        only these rows, by variant or label; p values are corrected for their number (report.html
                        keeps all rows)
  --baseline VARIANT    test every variant against this one: difference, 95 % interval, p value with Holm's correction
  --profile             where the time of a step goes: data, networks, each term, backward, optimizer
  --html                also one page of everything, report.html, as suites write at their end: tables to sort and
                        filter, every seed, curves, costs, graphs, ranks over pairs, options that differ, links
  --out DIR             output folder (default: RESULTS/tables, with --variants RESULTS/tables/chosen)
"""
_FOLDER_OF_CHOSEN = "chosen"
_CHOSEN = "rows were chosen by --variants; the study may have others"


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = CommandParser("report")
    parser.add_argument("results", nargs="?", default="results")
    parser.add_argument("--table", default="default")
    parser.add_argument("--study")
    parser.add_argument("--variants")
    parser.add_argument("--baseline")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--html", action="store_true")
    parser.add_argument("--out")
    options = parser.parse_args(list(arguments))
    spec = studies.read_spec(options.table, options.config_dir)
    loaded = load_records(options.results)
    records = loaded.records
    if options.study is not None:
        records = studies.of_study(records, options.study)
        spec = studies.for_study(spec, options.study)
    if options.variants is not None:
        records = _of_variants(records, options.variants)
    if options.baseline is not None:
        if isinstance(spec, GridSpec):
            raise UserError(f"--baseline: the table '{spec.name}' is a grid, which has no tests; use --table default")
        known = {name for row in aggregate(records) for name in (row.variant, row.label)}
        one_of(options.baseline, known, "--baseline: no finished run has the variant")
        spec = dataclasses.replace(spec, baseline=options.baseline)
    check(options.out != "", "--out is '', but must be the path of a folder")
    folder = Path(options.results) / "tables" if options.out is None else Path(options.out)
    if options.out is None and options.variants is not None:
        folder /= _FOLDER_OF_CHOSEN  # the study's own tables stay
    suites = studies.suites_of(loaded.of_study(options.study), options.config_dir)
    unfinished = left_out(records)
    if options.profile:
        tables = studies.profiles_by_study(records, suites)
        check(len(tables) > 0, "--profile: no finished run recorded the time of its phases")
    else:
        tables = studies.tables_by_study(records, spec, suites)
        why = "".join(f"; {line}" for line in unfinished)
        check(len(tables) > 0, f"there is no finished run of a student below '{shown(options.results)}'{why}")
    for problem in loaded.problems:
        print(visible(f"left out: {problem}"), file=sys.stderr)
    for line in unfinished:
        print(line, file=sys.stderr)
    if options.variants is not None:
        tables = [dataclasses.replace(table, notes=(*table.notes, _CHOSEN)) for table in tables]
    make_folder(folder)
    studies.show_tables(tables, folder)
    if not options.profile and isinstance(spec, TableSpec) and spec.name in ("default", "graphs"):
        studies.draw_figures(records, suites, folder, spec.baseline, only_graphs=spec.name == "graphs")
    if options.html:
        studies.write_html(loaded.of_study(options.study), spec, suites, folder, options.config_dir)
    return 0


def _of_variants(records: Sequence[Record], text: str) -> list[Record]:
    """Return the records of some variants or labels of rows, and those of teachers."""
    labels = {id(run): row.label for row in aggregate(records) for run in row.runs}
    known = {name for record in records if record.kind == "student" for name in _names(record, labels)}
    names = set(_split(text, known))
    for name in names:
        one_of(name, known, "--variants: there is no run of")
    return [record for record in records if record.kind != "student" or _names(record, labels) & names]


def _split(text: str, known: Collection[str]) -> Iterator[str]:
    """Yield names that commas separate, of which some hold commas themselves."""
    pieces = text.split(",")
    while pieces:
        lengths = range(len(pieces), 0, -1)
        length = next((length for length in lengths if ",".join(pieces[:length]) in known), 1)
        yield ",".join(pieces[:length])
        del pieces[:length]


def _names(record: Record, labels: Mapping[int, str]) -> set[str]:
    return {record.variant, labels.get(id(record), record.variant)}
