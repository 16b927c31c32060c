"""`graphkd ablation`: a suite of runs, through Hydra's launchers."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graphkd.ablation import Suite, SuiteRun, quoted
from graphkd.errors import UserError, check, counted, one_line, one_of
from graphkd.identity import cached_fingerprints
from graphkd_cli import compose, studies, transfer
from graphkd_cli.arguments import CommandParser
from graphkd_cli.launch import HELP as LAUNCH_HELP
from graphkd_cli.launch import Ways, conclude, groups, launch, ways_parser
from graphkd_cli.overrides import split, split_hydra, split_words

if TYPE_CHECKING:
    from graphkd.run import StudentSpec

DEFAULT_SUITE = "digits"
SUITE_KEYS = {"seed", "study", "variant", "run_dir"}
HELP = f"""\
usage: graphkd ablation [SUITE | all] [OVERRIDES] [--dry-run] [--seeds 0,1,2] [--variants A,B] [--pairs A,B]
                        [--jobs N] [--group N | --alone] [--config-dir DIR]

Runs every variant of configs/ablation/SUITE.yaml (default: {DEFAULT_SUITE}) with every seed (and pair that the suite
names), then writes the suite's tables. Runs of one seed and teacher train together, with the same results as alone, and
several processes share the work. Finished runs are kept; a failed run is recorded and does not stop the others. `all`
runs every suite except the long comparisons (`comparison: true`), one after another.

  --dry-run                 print the runs and the groups that train together; run nothing
  --seeds 0,1,2             these seeds instead of the suite's
  --variants A,B            only these of its variants
  --pairs A,B               these pairs instead of the suite's
  trainer.epochs=10         an override for every run
{LAUNCH_HELP}"""


@dataclass(frozen=True)
class Planned:
    """A checked run of a suite."""

    run: SuiteRun
    spec: StudentSpec


@dataclass(frozen=True)
class PlannedSuite:
    """A checked suite.

    Attributes:
        name: Its name, which is the study of its runs.
        suite: The suite.
        extra: Overrides from the command line, for every run.
        runs: Its runs in order.
    """

    name: str
    suite: Suite
    extra: Sequence[str]
    runs: Sequence[Planned]


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_intermixed_args(list(arguments))
    name, overrides = _split(options.words)
    launcher, extra = split_hydra(overrides)
    ways = Ways.chosen(options, launcher, options.config_dir)
    compose.check_multirun("launch", launcher, options.config_dir)
    # Everything is checked before anything is run.
    with cached_fingerprints():
        suites = [_plan_suite(each, extra, options) for each in _chosen(name, options.config_dir)]
        for suite in suites:
            _note_baseline(suite)
            if options.dry_run:
                _print_runs(suite, ways)
    if options.dry_run:
        return 0
    if name != studies.EVERY_SUITE:
        return _run(suites[0], ways)
    return max([_run_beside_others(suite, ways) for suite in suites])


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("ablation", parents=[ways_parser()])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--seeds")
    parser.add_argument("--variants")
    parser.add_argument("--pairs")
    return parser


def _split(words: Sequence[str]) -> tuple[str, list[str]]:
    names, overrides = split_words(words)
    check(len(names) <= 1, f"one suite at a time, not {' and '.join(names)}")
    return (names[0] if names else DEFAULT_SUITE), overrides


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--seeds is '{text}', but must be whole numbers separated by commas") from None
    check(len(set(seeds)) == len(seeds), f"--seeds names a seed twice: {text}")
    return seeds


def _variants(text: str | None, suite: Suite) -> list[str]:
    """Return the variants that --variants names; all by default."""
    names = list(suite.variants) if text is None else text.split(",")
    for name in names:
        one_of(name, suite.variants, "--variants: there is no")
    return names


def _pairs(text: str, suite: str, own: Sequence[str]) -> tuple[str, ...]:
    check(len(own) > 0, f"--pairs: suite '{suite}' names no pairs; choose one with pair=NAME")
    pairs = tuple(text.split(","))
    check(len(set(pairs)) == len(pairs), f"--pairs names a pair twice: {text}")
    return pairs


def _chosen(name: str, config_dir: str | None) -> list[str]:
    """Return the suites that a name stands for."""
    if name != studies.EVERY_SUITE:
        return [name]
    return [each for each in studies.suite_names(config_dir) if not studies.read_suite(each, config_dir).comparison]


def _plan_suite(name: str, extra: Sequence[str], options: argparse.Namespace) -> PlannedSuite:
    suite = studies.read_suite(name, options.config_dir)
    if options.seeds is not None:
        suite.seeds = _seeds(options.seeds)
    if options.pairs is not None:
        suite.pairs = _pairs(options.pairs, name, suite.pairs)
    studies.read_spec(suite.table, options.config_dir)
    try:
        _check_own_keys(suite, extra)
        chosen = _variants(options.variants, suite)
        runs = [_plan(run, extra, options.config_dir) for run in suite.runs(name) if run.variant in chosen]
        _check_pairs(runs)
        if suite.transfer:
            target_of = transfer.targets(suite.transfer, options.config_dir)
            for item in runs:
                target_of(item.spec.config)
    except UserError as error:
        raise UserError(f"suite '{name}': {error}") from error
    return PlannedSuite(name, suite, extra, runs)


def _check_own_keys(suite: Suite, extra: Sequence[str]) -> None:
    own = {*SUITE_KEYS, *(["pair"] if suite.pairs else [])}
    for override in itertools.chain(extra, suite.base, *suite.variants.values()):
        key = split(override)[0]
        hint = f"; see --{key}s" if override in extra and key in ("seed", "pair") else ""
        check(key not in own, f"'{override}': a suite sets {key} itself{hint}")


def _check_pairs(planned: Sequence[Planned]) -> None:
    """Check that no two pairs have the same networks: records identify pairs by their names alone."""
    from graphkd.run.records import pair_name

    known: dict[str, str | None] = {}
    for item in planned:
        name = pair_name(item.spec.config)
        first = known.setdefault(name, item.run.pair)
        check(first == item.run.pair, f"the pairs '{first}' and '{item.run.pair}' are both {name}, so share a table")


def _plan(run: SuiteRun, extra: Sequence[str], config_dir: str | None) -> Planned:
    from graphkd.run import parse

    try:
        composed = compose.compose([*run.overrides, *extra], config_dir)
        spec = parse({**composed.config, "varied": run.varied})
        compose.check_used(composed, spec.unused_nodes, [f"{k}={v}" for k, v in run.varied.items()])
    except UserError as error:
        raise UserError(f"variant '{run.variant}': {error}") from error
    return Planned(run, spec if run.pair is None else _in_folder_of_pair(spec, run.pair))


def _in_folder_of_pair(spec: StudentSpec, pair: str) -> StudentSpec:
    """Move a run to the folder of its pair: a student without a teacher is the same in all, but each table needs it."""
    check(pair == Path(pair).name, f"the pair '{pair}' must have a plain name: it becomes a folder of the results")
    study = Path(spec.config["results"]) / spec.config["study"]
    folder = study / pair / spec.folder.relative_to(study)
    return dataclasses.replace(spec, config={**spec.config, "run_dir": str(folder)})


def _print_runs(planned: PlannedSuite, ways: Ways) -> None:
    suite = planned.suite
    variants = {item.run.variant for item in planned.runs}
    counts = [(len(variants), "variant"), (len(suite.pairs), "pair"), (len(suite.seeds), "seed")]
    factors = " x ".join(counted(count, what) for count, what in counts if count)
    print(f"{planned.name}: {suite.description}")
    print(f"{factors} = {counted(len(planned.runs), 'run')}")
    print(f"all: {' '.join([*suite.shared, *planned.extra]) or '(no changes)'}")
    for item in planned.runs:
        changes = " ".join(item.run.changes) or "(no changes)"
        print(f"  {item.run.label}: {changes} -> {item.spec.folder}")
    together = groups([item.spec for item in planned.runs], range(len(planned.runs)), ways)
    print("runs that train together:")
    for group in together:
        print(f"  {', '.join(planned.runs[number].run.label for number in group)}")


def _note_baseline(planned: PlannedSuite) -> None:
    baseline = planned.suite.baseline
    if baseline is not None and all(item.run.variant != baseline for item in planned.runs):
        print(f"note: --variants leaves out the baseline '{baseline}'; tables need it to have run before")


def _run(planned: PlannedSuite, ways: Ways) -> int:
    """Run a suite and write its tables; return the exit code."""
    from graphkd.run import check_parts

    names = [f"suite '{planned.name}': variant '{item.run.variant}'" for item in planned.runs]
    specs = [item.spec for item in planned.runs]
    check_parts(zip(names, specs, strict=True), rehearses=not ways.launcher)
    results = Path(planned.runs[0].spec.config["results"])
    try:
        failed = launch(specs, ways)
    finally:
        studies.keep_suite(results, planned.name, planned.suite)
    if len(failed) < len(planned.runs):
        studies.write_study(results, planned.name, planned.suite, ways.config_dir)
    probed = _transfer(planned, ways.config_dir) if planned.suite.transfer and not failed else 0
    return max(probed, conclude([item.run.label for item in planned.runs], failed))


def _transfer(planned: PlannedSuite, config_dir: str | None) -> int:
    """Probe the suite's students on the data that it names; return the exit code."""
    results = Path(planned.runs[0].spec.config["results"])
    words = [str(results / planned.name), *planned.suite.transfer, f"results={quoted(str(results))}"]
    return transfer.main([*words, *(["--config-dir", config_dir] if config_dir else [])])


def _run_beside_others(planned: PlannedSuite, ways: Ways) -> int:
    """Run a suite like `_run`, but report an error instead of raising it, so that the next suites run."""
    print(f"{planned.name}: {planned.suite.description}")
    try:
        return _run(planned, ways)
    except Exception as error:
        print(f"suite '{planned.name}' failed: {one_line(error)}", file=sys.stderr)
        return 1
