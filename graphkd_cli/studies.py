"""Suites, table layouts and the tables of a study, for ablation, report and transfer."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from graphkd.ablation import Suite
from graphkd.errors import UserError, check, one_line, one_of
from graphkd.files import write_atomically
from graphkd.report.figures import build_figures, write_figures
from graphkd.report.graph_figures import build_graph_figures
from graphkd.report.grid import build_grids
from graphkd.report.grid_spec import GridSpec
from graphkd.report.html import write_page
from graphkd.report.load import SUITE_FILE, Loaded, load_records
from graphkd.report.markup import Table, write_tables
from graphkd.report.profile import build_profiles
from graphkd.report.record import Record
from graphkd.report.rows import is_finished
from graphkd.report.sections import Cost, Studies
from graphkd.report.tables import TableSpec, build_tables
from graphkd.yaml_files import read_yaml
from graphkd_cli import compose
from graphkd_cli.config_files import config_names
from graphkd_cli.printing import console, print_block, print_line, print_text

EVERY_SUITE = "all"
OTHER_NODES = {
    "student", "teacher", "data", "trainer", "teacher_trainer", "builder", "gnn", "teacher_gnn", "negatives", "bank",
    "logger",
}  # fmt: skip
"""Config nodes that do not affect which terms an objective has."""
LAYOUTS: dict[str, type[TableSpec] | type[GridSpec]] = {"columns": TableSpec, "grid": GridSpec}


def suite_names(config_dir: str | None = None) -> list[str]:
    """Return the names of the suites in graphkd's configs and the user's own, sorted."""
    return config_names("ablation", config_dir)


def read_suite(name: str, config_dir: str | None = None) -> Suite:
    """Read `configs/ablation/NAME.yaml`.

    Raises:
        UserError: There is none, or it is not well formed.
    """
    known = suite_names(config_dir)
    check(name != EVERY_SUITE, f"ablation/{name}.yaml: '{name}' means every suite, so no suite can have that name")
    try:
        one_of(name, known, "there is no suite")
    except UserError as error:
        raise UserError(f"{error}; for one of your own: --config-dir FOLDER") from None
    node = compose.compose([], config_dir, f"ablation/{name}").config["ablation"]

    @functools.cache
    def terms_of_choices(choices: tuple[str, ...]) -> Collection[str]:
        return dict(compose.compose(choices, config_dir).config["objective"])

    def terms_of(overrides: Sequence[str]) -> Collection[str]:
        return terms_of_choices(tuple(word for word in overrides if not compose.nodes([word]) & OTHER_NODES))

    return Suite.from_config(node, name, terms_of)


def read_spec(name: str, config_dir: str | None = None) -> TableSpec | GridSpec:
    """Read `configs/table/NAME.yaml`, the user's own before graphkd's.

    Raises:
        UserError: There is none, or it is not well formed.
    """
    one_of(name, config_names("table", config_dir), "there is no table")
    options = compose.compose([], config_dir, f"table/{name}").config["table"]
    layout = str(options.get("layout", "columns"))
    return LAYOUTS[one_of(layout, LAYOUTS, f"table '{name}' has no layout")].from_mapping(options)


def keep_suite(results: Path, study: str, suite: Suite) -> None:
    """Write a suite to the folder of its study, if there is one, for reports without `--config-dir`."""
    if not (results / study).is_dir():
        return
    plain = {field.name: getattr(suite, field.name) for field in dataclasses.fields(suite) if field.name != "terms_of"}
    try:
        write_atomically(results / study / SUITE_FILE, yaml.safe_dump(plain, sort_keys=False))
    except OSError as error:  # the runs count more
        print(f"the suite cannot be kept with its runs: {one_line(error)}", file=sys.stderr)


def suites_of(loaded: Loaded, config_dir: str | None, but: str | None = None) -> dict[str, Suite]:
    """Return the suites of records, by study: those in the configs, or else those that were kept with their runs.

    One that cannot be read is reported on stderr.

    Args:
        loaded: The records.
        config_dir: The user's own configs.
        but: A study to leave out.
    """
    named = set(suite_names(config_dir))
    places: dict[str, set[Path]] = defaultdict(set)
    for record, folder in zip(loaded.records, loaded.folders, strict=True):
        if record.kind == "student" and record.study != but:
            places[record.study].add(Path(os.path.abspath(os.path.join(folder, "../../.."))))
    found: dict[str, Suite] = {}
    for study in sorted(places):
        kept = [file for place in sorted(places[study]) if (file := place / SUITE_FILE).is_file()]
        try:
            if study in named:
                found[study] = read_suite(study, config_dir)
            elif kept:
                content = read_yaml(kept[0])
                check(isinstance(content, dict), f"{kept[0]} holds no suite")
                found[study] = Suite.from_config(content, study)
        except UserError as error:
            print(f"the order of '{study}' is unknown: {error}", file=sys.stderr)
    return found


def write_study(results: Path, study: str, suite: Suite | None = None, config_dir: str | None = None) -> None:
    """Print and write the tables of one study, draw its figures, and write the page of all studies.

    Args:
        results: The results folder.
        study: The study.
        suite: Its suite, if any, which gives the order of variants, layout, baseline and axis of the figure. A grid
            shows this study, whichever it is made for.
        config_dir: The user's own configs.

    Raises:
        UserError: There is no such layout, or no run of the study.
    """
    loaded = load_records(results)
    records = of_study(loaded.records, study)
    suites = {} if suite is None else {study: suite}
    folder = results / "tables"
    spec = read_spec("default" if suite is None else suite.table, config_dir)
    show_tables(tables_by_study(records, for_study(spec, study), suites), folder)
    draw_figures(records, suites, folder, spec.baseline if isinstance(spec, TableSpec) else None)
    others = suites_of(loaded, config_dir, but=study)
    write_html(loaded, read_spec("default", config_dir), {**others, **suites}, folder, config_dir)


def of_study(records: Sequence[Record], study: str) -> list[Record]:
    """Return the records of a study.

    Raises:
        UserError: No run of a student is of that study.
    """
    known = {record.study for record in records if record.kind == "student"}
    one_of(study, known, "there is no run of the study")
    return [record for record in records if record.study == study]


def for_study(spec: TableSpec | GridSpec, study: str) -> TableSpec | GridSpec:
    """Return a layout; a grid is changed to show this study."""
    return dataclasses.replace(spec, study=study) if isinstance(spec, GridSpec) else spec


def tables_by_study(records: Sequence[Record], spec: TableSpec | GridSpec, suites: Mapping[str, Suite]) -> list[Table]:
    """Build the tables study by study, each against its suite's baseline unless the layout names one."""
    if isinstance(spec, GridSpec):
        return build_grids(records, spec)
    tables: list[Table] = []
    order = orders(suites)
    for study, own in by_study(records).items():
        baseline = spec.baseline or (suites[study].baseline if study in suites else None)
        tables += build_tables(own, dataclasses.replace(spec, baseline=baseline), order.get(study, ()))
    return tables


def profiles_by_study(records: Sequence[Record], suites: Mapping[str, Suite]) -> list[Table]:
    """Build the tables of phases study by study."""
    order = orders(suites)
    return [table for study, own in by_study(records).items() for table in build_profiles(own, order.get(study, ()))]


def by_study(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records of each study, studies by name."""
    studies = sorted({record.study for record in records})
    return {study: [record for record in records if record.study == study] for study in studies}


def orders(suites: Mapping[str, Suite]) -> dict[str, list[str]]:
    """Return the variants of each suite in its order."""
    return {study: list(suite.variants) for study, suite in suites.items()}


def draw_figures(
    records: Sequence[Record],
    suites: Mapping[str, Suite],
    folder: Path,
    baseline: str | None = None,
    only_graphs: bool = False,
) -> None:
    """Draw figures for each study, pair and data set; print the names of the files.

    Args:
        records: Runs of any kind and status.
        suites: Their suites, by study.
        folder: Where to write.
        baseline: The variant whose mean is a line through every figure; None for that of each suite.
        only_graphs: Whether to draw only what the graphs were like against accuracy.
    """
    order = orders(suites)

    def of(study: str, own: list[Record]) -> list[tuple[str, Any]]:
        suite, variants = suites.get(study), order.get(study, ())
        axis, usual = (None, None) if suite is None else (suite.figure, suite.baseline)
        graphs = build_graph_figures(own, variants)
        if only_graphs:
            return graphs
        return [*build_figures(own, order=variants, axis=axis, baseline=baseline or usual), *graphs]

    for path in write_figures((figure for item in by_study(records).items() for figure in of(*item)), folder):
        print_line(console(), f"written: {path}")


def write_html(
    loaded: Loaded, spec: TableSpec | GridSpec, suites: Mapping[str, Suite], folder: Path, config_dir: str | None
) -> None:
    """Write the page of all records, and print its path.

    Args:
        loaded: The records and their folders.
        spec: The layout; a grid stands above the default columns, as do grids that suites name as theirs.
        suites: The suites of the records, by study.
        folder: Where to write.
        config_dir: The user's own configs.
    """
    finished = {record.study for record in filter(is_finished, loaded.records)}
    known = config_names("table", config_dir)  # a kept suite may name one that is elsewhere
    layouts = {study: read_spec(suite.table, config_dir) for study, suite in suites.items() if suite.table in known}
    if isinstance(spec, GridSpec):
        layouts |= dict.fromkeys(finished if spec.study is None else {spec.study}, spec)
    grids = {
        study: build_grids(loaded.of_study(study).records, dataclasses.replace(layout, study=study))
        for study, layout in layouts.items()
        if study in finished and isinstance(layout, GridSpec)
    }
    columns = read_spec("default", config_dir) if isinstance(spec, GridSpec) else spec
    if isinstance(columns, GridSpec):
        raise UserError("the table 'default' is a grid, but the columns of report.html are those of its layout")
    baselines = {study: suite.baseline for study, suite in suites.items()}
    page = write_page(loaded, folder, columns, Studies(orders(suites), baselines, grids), _cost)
    print_line(console(), f"written: {page}")


def _cost(folder: str) -> Cost | None:
    """Return the size of the student in a run's folder; None if it cannot be built any more."""
    from graphkd.run.finished import student_complexity

    try:
        return Cost(*student_complexity(folder))
    except Exception:  # whatever a network of a plug-in raises: the page does without its size
        return None


def show_tables(tables: Sequence[Table], folder: Path) -> None:
    """Print tables and write them as files."""
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
