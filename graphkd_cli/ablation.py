"""`graphkd ablation`: a suite of runs, through Hydra's launchers."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphkd.ablation import Suite, SuiteRun, quoted
from graphkd.errors import UserError, check, one_line, one_of
from graphkd_cli import compose, studies, worker

if TYPE_CHECKING:
    from graphkd.run import RunSpec, StudentSpec

DEFAULT_SUITE = "digits"
BUSY = "another process is at it"
MOST_DEATHS = 3
"""How often a parallel launcher's processes may die in a row without a run finished in between."""
SUITE_KEYS = {"seed", "study", "variant", "run_dir"}
HELP = """\
usage: graphkd ablation [SUITE | all] [OVERRIDES] [--dry-run] [--seeds 0,1,2] [--variants A,B] [--pairs A,B]
                        [--config-dir DIR]

Runs every variant of configs/ablation/SUITE.yaml with every seed (and pair, where the suite names pairs), then writes
the suite's tables. Finished runs are kept; a failed one is recorded and the rest go on. `all` runs every suite but the
long comparisons (`comparison: true`), one after another.

  --dry-run                 print the list of runs and do nothing
  --seeds 0,1,2             other seeds than the suite's
  --variants A,B            only these of its variants
  --pairs A,B               other pairs than those that the suite names
  trainer.epochs=10         an override for every run
  hydra/launcher=joblib     in parallel on this machine (hydra.launcher.n_jobs=2); submitit and ray likewise
"""


@dataclass(frozen=True)
class Planned:
    """A run of the suite, checked."""

    run: SuiteRun
    spec: StudentSpec


@dataclass(frozen=True)
class PlannedSuite:
    """A suite, checked whole.

    Attributes:
        name: Its name, the study of its runs.
        suite: What it says.
        extra: Overrides from the command line, for every run.
        runs: Its runs in order.
    """

    name: str
    suite: Suite
    extra: Sequence[str]
    runs: Sequence[Planned]


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_intermixed_args(list(arguments))
    if options.help:
        print(HELP, end="")
        return 0
    name, overrides = _split(options.words)
    launcher, extra = compose.split_hydra(overrides)
    compose.check_multirun("launch", launcher, options.config_dir)
    # Everything is checked before anything is run.
    suites = [_plan_suite(each, extra, options) for each in _chosen(name, options.config_dir)]
    for suite in suites:
        _note_baseline(suite)
    if options.dry_run:
        for suite in suites:
            _print_runs(suite)
        return 0
    if name != studies.EVERY_SUITE:
        return _run(suites[0], launcher, options.config_dir)
    return max([_run_beside_others(suite, launcher, options.config_dir) for suite in suites])


def job(config: Any) -> dict[str, Any]:
    """Do one run of a suite or a teacher for it, called by Hydra's launcher; a failure is told of, not raised."""
    from graphkd.run import read_spec, run
    from graphkd.run.folder import busy
    from graphkd_cli.progress import present_runs
    from graphkd_cli.show import result_line

    file = Path(config.folder) / f"{config.index}.yaml"
    spec = read_spec(file)
    what = _what(spec)
    runs = present_runs(config.total, what)
    if not config.wait and busy(spec.folder):
        return {"index": config.index, "error": BUSY}
    error, trained = None, False
    try:
        with runs.watch() as callback:
            result = run(spec, callback, worker=worker.MODULE)
        line, trained = result_line(result), not result.reused
    except Exception as failure:
        error = one_line(failure)
        line = f"{spec.variant} seed {spec.seed}: failed: {error}"
    file.with_suffix(f".{what}").touch()
    runs.finished(line, trained, len(list(file.parent.glob(f"*.{what}"))))  # in whatever processes
    return {"index": config.index, "error": error}


def _what(spec: RunSpec) -> str:
    return "teacher" if spec.kind == "teacher" else "run"


def _parser() -> argparse.ArgumentParser:
    parser = compose.CommandParser("ablation")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--seeds")
    parser.add_argument("--variants")
    parser.add_argument("--pairs")
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
    """The suites that a name stands for."""
    if name != studies.EVERY_SUITE:
        return [name]
    return [each for each in studies.suite_names(config_dir) if not studies.read_suite(each, config_dir).comparison]


def _plan_suite(name: str, extra: Sequence[str], options: argparse.Namespace) -> PlannedSuite:
    suite = studies.read_suite(name, options.config_dir)
    _check_own_keys(suite, extra)
    if options.seeds is not None:
        suite.seeds = _seeds(options.seeds)
    if options.pairs is not None:
        suite.pairs = _pairs(options.pairs, name, suite.pairs)
    studies.read_spec(suite.table, options.config_dir)
    try:
        chosen = _variants(options.variants, suite)
        runs = [_plan(run, extra, options.config_dir) for run in suite.runs(name) if run.variant in chosen]
        _check_pairs(runs)
    except UserError as error:
        raise UserError(f"suite '{name}': {error}") from error
    return PlannedSuite(name, suite, extra, runs)


def _check_own_keys(suite: Suite, extra: Sequence[str]) -> None:
    own = {*SUITE_KEYS, *(["pair"] if suite.pairs else [])}
    for override in extra:
        key = override.lstrip("+~").partition("=")[0]
        hint = f"; see --{key}s" if key in ("seed", "pair") else ""
        check(key not in own, f"'{override}': a suite sets {key} itself{hint}")


def _check_pairs(planned: Sequence[Planned]) -> None:
    """Records tell pairs apart by the names of their networks alone."""
    from graphkd.run.records import pair_name

    known: dict[str, str | None] = {}
    for item in planned:
        name = pair_name(item.spec.config)
        first = known.setdefault(name, item.run.pair)
        check(first == item.run.pair, f"the pairs '{first}' and '{item.run.pair}' are both {name}: one table for two")


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
    """A student that learns from no teacher is the same run in every pair, but each pair's table needs its record."""
    check(pair == Path(pair).name, f"the pair '{pair}' must have a plain name: it becomes a folder of the results")
    study = Path(spec.config["results"]) / spec.config["study"]
    folder = study / pair / spec.folder.relative_to(study)
    return dataclasses.replace(spec, config={**spec.config, "run_dir": str(folder)})


def _print_runs(planned: PlannedSuite) -> None:
    suite = planned.suite
    variants = {item.run.variant for item in planned.runs}
    counts = [(len(variants), "variants"), (len(suite.pairs), "pairs"), (len(suite.seeds), "seeds")]
    factors = " x ".join(f"{count} {what}" for count, what in counts if count)
    print(f"{planned.name}: {suite.description}")
    print(f"{factors} = {len(planned.runs)} runs")
    print(f"all: {' '.join([*suite.shared, *planned.extra]) or '(no changes)'}")
    for item in planned.runs:
        changes = " ".join(item.run.changes) or "(no changes)"
        print(f"  {item.run.label}: {changes} -> {item.spec.folder}")


def _note_baseline(planned: PlannedSuite) -> None:
    baseline = planned.suite.baseline
    if baseline is not None and all(item.run.variant != baseline for item in planned.runs):
        print(f"note: --variants leaves out the baseline '{baseline}'; tables compare with it only where it ran before")


def _run(planned: PlannedSuite, launcher: Sequence[str], config_dir: str | None) -> int:
    """Runs a suite and writes its tables; returns the exit code."""
    from graphkd.run import check_parts

    check_parts([(f"suite '{planned.name}': variant '{item.run.variant}'", item.spec) for item in planned.runs])
    failed = _launch(planned.runs, launcher, config_dir)
    if len(failed) < len(planned.runs):
        studies.write_study(Path(planned.runs[0].spec.config["results"]), planned.name, planned.suite, config_dir)
    if planned.suite.transfer and not failed:
        _transfer(planned, config_dir)
    return _conclude(planned.runs, failed)


def _transfer(planned: PlannedSuite, config_dir: str | None) -> None:
    """Probes the suite's students on the data that it names."""
    from graphkd_cli import transfer

    results = Path(planned.runs[0].spec.config["results"])
    words = [str(results / planned.name), *planned.suite.transfer, f"results={quoted(str(results))}"]
    transfer.main([*words, *(["--config-dir", config_dir] if config_dir else [])])


def _run_beside_others(planned: PlannedSuite, launcher: Sequence[str], config_dir: str | None) -> int:
    """As `_run`, but what stops the suite does not stop those after it."""
    print(f"{planned.name}: {planned.suite.description}")
    try:
        return _run(planned, launcher, config_dir)
    except Exception as error:
        print(f"suite '{planned.name}' failed: {one_line(error)}", file=sys.stderr)
        return 1


def _launch(planned: Sequence[Planned], launcher: Sequence[str], config_dir: str | None) -> dict[int, str]:
    """Run everything, teachers first; return the errors by the run's position."""
    from graphkd.run.folder import launch_folder

    specs: list[RunSpec] = [item.spec for item in planned]
    teachers = {}
    for spec in specs:
        if spec.teacher is not None and spec.teacher.checkpoint is None:
            config = {**spec.teacher.config, "force": spec.config["force"]}
            teachers[spec.teacher.folder] = dataclasses.replace(spec.teacher, config=config)
    with launch_folder(Path(specs[0].config["results"])) as folder:
        common = [*launcher, f"folder={quoted(str(folder))}"]
        first = [_Job(len(specs) + at, spec) for at, spec in enumerate(teachers.values())]
        _launch_jobs(first, folder, common, config_dir)
        return _launch_jobs([_Job(at, spec) for at, spec in enumerate(specs)], folder, common, config_dir)


@dataclass(frozen=True)
class _Job:
    """A job of the launcher."""

    index: int
    spec: RunSpec

    def is_done(self) -> bool:
        from graphkd.run.folder import is_done

        return not self.spec.config["force"] and is_done(self.spec.folder, self.spec.identity, self.spec.seed)


def _launch_jobs(
    jobs: Sequence[_Job], folder: Path, overrides: Sequence[str], config_dir: str | None
) -> dict[int, str]:
    """Run jobs; what another suite works on comes last. Return the errors by the job's index."""
    from graphkd.run import write_spec
    from graphkd_cli.progress import several

    if not jobs:
        return {}
    for each in jobs:
        write_spec(each.spec, folder / f"{each.index}.yaml")
    words = [*overrides, f"total={len(jobs)}"]
    with several(len(jobs), _what(jobs[0].spec)):
        answers = _launch_round(jobs, [*words, "wait=false"], config_dir)
        others = [each for each in jobs if answers[each.index] == BUSY]
        answers |= _launch_round(others, [*words, "wait=true"], config_dir)
    return {index: error for index, error in answers.items() if error is not None}


def _launch_round(jobs: Sequence[_Job], overrides: Sequence[str], config_dir: str | None) -> dict[int, str | None]:
    """What each job answered; those of a launcher whose process died are launched again, to go on where they were."""
    answers: dict[int, str | None] = {each.index: None for each in jobs}
    left, deaths = list(jobs), 0
    while left:
        words = [[f"index={each.index}"] for each in left]
        try:
            found = compose.launch("launch", overrides, words, job, config_dir)
        except BrokenExecutor as error:
            missing = [each for each in left if not each.is_done()]
            deaths = deaths + 1 if len(missing) == len(left) else 1
            left = missing
            if deaths == MOST_DEATHS:
                return answers | {each.index: f"its process died: {one_line(error)}" for each in left}
            print(f"a process of the launcher died; going on with {len(left)} runs", file=sys.stderr)
        else:
            return answers | {answer["index"]: answer["error"] for answer in found}
    return answers


def _conclude(planned: Sequence[Planned], failed: dict[int, str]) -> int:
    print(f"{len(planned) - len(failed)} of {len(planned)} runs are finished.")
    for index, error in sorted(failed.items()):
        print(f"failed: {planned[index].run.label}: {error}")
    return 1 if failed else 0
