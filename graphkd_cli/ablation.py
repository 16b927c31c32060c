"""`graphkd ablation`: a suite of runs, through Hydra's launchers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphkd.ablation import Suite, SuiteRun, quoted
from graphkd.errors import UserError, check, choices, did_you_mean, one_line
from graphkd_cli import compose

if TYPE_CHECKING:
    from graphkd.assemble import Plan

DEFAULT_SUITE = "digits"
SUITE_KEYS = {"seed", "study", "variant", "run_dir"}
HELP = """\
usage: graphkd ablation [SUITE] [OVERRIDES] [--dry-run] [--seeds 0,1,2] [--config-dir DIR]

Runs every variant of configs/ablation/SUITE.yaml with every seed, then writes the suite's tables. Finished runs are
kept; a failed one is recorded and the rest go on.

  --dry-run                 print the list of runs and do nothing
  --seeds 0,1,2             other seeds than the suite's
  trainer.epochs=10         an override for every run
  hydra/launcher=joblib     in parallel on this machine (hydra.launcher.n_jobs=2); submitit and ray likewise
"""


@dataclass(frozen=True)
class Planned:
    """A run of the suite, checked."""

    run: SuiteRun
    plan: Plan


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_intermixed_args(list(arguments))
    if options.help:
        print(HELP, end="")
        return 0
    name, overrides = _split(options.words)
    launcher, extra = compose.split_hydra(overrides)
    for override in extra:
        key = override.lstrip("+~").partition("=")[0]
        check(key not in SUITE_KEYS, f"'{override}': a suite sets {key} itself" + "; see --seeds" * (key == "seed"))
    compose.check_multirun("launch", launcher, options.config_dir)
    suite = read_suite(name, options.config_dir)
    if options.seeds is not None:
        suite.seeds = _seeds(options.seeds)
    planned = [_plan(run, extra, options.config_dir) for run in suite.runs(name)]
    if options.dry_run:
        _print_runs(name, suite, extra, planned)
        return 0
    failed = _launch(planned, launcher, options.config_dir)
    if len(failed) < len(planned):
        from graphkd_cli.report import write_study

        write_study(planned[0].plan.results, name, list(suite.variants))
    return _conclude(planned, failed)


def job(config: Any) -> dict[str, Any]:
    """One run of a suite, called by Hydra's launcher; a run that fails is told of, not raised."""
    from graphkd.assemble import plan, plan_teacher
    from graphkd.run import read_config, run, run_teacher
    from graphkd_cli.show import console, outcome_line, print_line

    resolved = read_config(Path(config.folder) / f"{config.index}.yaml")
    screen = console()
    try:
        outcome = run_teacher(resolved, plan_teacher(resolved)) if config.teacher else run(plan(resolved))
    except Exception as error:
        name = f"{resolved['variant']} seed {resolved['seed']}"
        print_line(screen, f"{name}: failed: {one_line(error)}")
        return {"index": config.index, "error": one_line(error)}
    print_line(screen, outcome_line(outcome))
    return {"index": config.index, "error": None}


def suite_names(config_dir: str | None = None) -> list[str]:
    """The suites in graphkd's configs and the user's own."""
    folders = [compose.config_folder(), *([Path(config_dir)] if config_dir else [])]
    return sorted({path.stem for folder in folders for path in (folder / "ablation").glob("*.yaml")})


def read_suite(name: str, config_dir: str | None = None) -> Suite:
    """The suite of a name.

    Raises:
        UserError: There is none, or it is not well formed.
    """
    known = suite_names(config_dir)
    check(name in known, f"there is no suite '{name}'{did_you_mean(name, known)} (choices: {choices(known)})")
    node = compose.compose([], config_dir, f"ablation/{name}").config["ablation"]
    return Suite.from_config(node, name)


def _parser() -> argparse.ArgumentParser:
    parser = compose.CommandParser("ablation")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--seeds")
    return parser


def _split(words: Sequence[str]) -> tuple[str, list[str]]:
    names = [word for word in words if "=" not in word and not word.startswith("~")]
    check(len(names) <= 1, f"one suite at a time, not {' and '.join(names)}")
    return (names[0] if names else DEFAULT_SUITE), [word for word in words if word not in names]


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--seeds is '{text}', but must be whole numbers with commas between") from None
    check(len(set(seeds)) == len(seeds), f"--seeds names a seed twice: {text}")
    return seeds


def _plan(run: SuiteRun, extra: Sequence[str], config_dir: str | None) -> Planned:
    from graphkd.assemble import plan

    try:
        composed = compose.compose([*run.overrides, *extra], config_dir)
        planned = plan({**composed.config, "varied": run.varied})
        compose.check_used(composed, planned.unused_graph_nodes, [f"{k}={v}" for k, v in run.varied.items()])
    except UserError as error:
        raise UserError(f"variant '{run.variant}': {error}") from error
    return Planned(run, planned)


def _print_runs(name: str, suite: Suite, extra: Sequence[str], planned: Sequence[Planned]) -> None:
    print(f"{name}: {suite.description}")
    print(f"{len(suite.variants)} variants x {len(suite.seeds)} seeds = {len(planned)} runs")
    print(f"all: {' '.join([*suite.base, *extra]) or '(no changes)'}")
    for item in planned:
        changes = " ".join(suite.variants[item.run.variant]) or "(no changes)"
        print(f"  {item.run.variant} seed {item.run.seed}: {changes} -> {item.plan.folder}")


def _launch(planned: Sequence[Planned], launcher: Sequence[str], config_dir: str | None) -> dict[int, str]:
    """Runs everything, teachers first; returns the errors by the run's position."""
    from graphkd.run import write_config

    with compose.launch_folder(planned[0].plan.results) as folder:
        for index, item in enumerate(planned):
            write_config(item.plan.config, folder / f"{index}.yaml")
        teachers = {
            (item.plan.teacher.identity, item.plan.teacher.seed): index
            for index, item in enumerate(planned)
            if item.plan.teacher is not None and item.plan.teacher.checkpoint is None
        }
        common = [*launcher, f"folder={quoted(str(folder))}"]
        _launch_jobs(list(teachers.values()), [*common, "teacher=true"], config_dir)
        return _launch_jobs(list(range(len(planned))), common, config_dir)


def _launch_jobs(indices: list[int], overrides: Sequence[str], config_dir: str | None) -> dict[int, str]:
    if not indices:
        return {}
    jobs = [[f"index={index}"] for index in indices]
    answers = compose.launch("launch", overrides, jobs, job, config_dir)
    return {answer["index"]: answer["error"] for answer in answers if answer["error"] is not None}


def _conclude(planned: Sequence[Planned], failed: dict[int, str]) -> int:
    print(f"{len(planned) - len(failed)} of {len(planned)} runs are finished.")
    for index, error in sorted(failed.items()):
        run = planned[index].run
        print(f"failed: {run.variant} seed {run.seed}: {error}")
    return 1 if failed else 0
