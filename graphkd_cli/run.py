"""`graphkd run`: one run, or a sweep."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphkd.errors import check, one_line
from graphkd.identity import cached_fingerprints
from graphkd_cli import compose, worker
from graphkd_cli.arguments import arguments_parser, parse_arguments
from graphkd_cli.config_files import hydra_session
from graphkd_cli.launch import HELP as LAUNCH_HELP
from graphkd_cli.launch import Ways, conclude, launch, ways_parser
from graphkd_cli.overrides import in_grammar, split_hydra
from graphkd_cli.refusals import call

if TYPE_CHECKING:
    from graphkd.run import StudentSpec
    from graphkd.run.part import Part

_scored: set[str] = set()
"""The data sets, as JSON, that are known to have validation scores."""

HELP = f"""\
usage: graphkd run [OVERRIDES] [-m] [--cfg job] [--config-dir DIR]

Distils a student; trains its teacher first if there is none yet.

  builder=NAME gnn=NAME objective=NAME data=NAME pair=NAME trainer=NAME   groups (`graphkd list`)
  student=NAME teacher=NAME               networks, or {{name: NAME, option: value, ...}}
  teacher.checkpoint=FILE                 a trained teacher
  objective.hkd.temperature=0.1           any option of any part, by its path in `--cfg job`
  seed=N run_dir=DIR results=DIR force=true
  -m, --multirun                          every combination of comma-separated values; runs that share data, seed,
                                          batch size and teacher train together
  --cfg job                               print the config and run nothing
{LAUNCH_HELP}"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parse_arguments("run", arguments, ways_parser())
    check(
        options.multirun or not _ways_given(options),
        "run: --jobs, --group and --alone are for several runs, which need -m",
    )
    if options.cfg or options.info or options.hydra_help:
        return _show(options)
    if options.multirun:
        return _sweep(options)
    return _single(options)


def _ways_given(options: argparse.Namespace) -> bool:
    return options.alone or options.jobs is not None or options.group is not None


def _single(options: argparse.Namespace) -> int:
    spec = _parse(compose.compose(options.overrides, options.config_dir))

    from graphkd.run import run
    from graphkd_cli.printing import console, print_result, print_reused
    from graphkd_cli.progress import ProgressCallback

    screen = console()
    with ProgressCallback(screen) as callback:
        result = run(spec, callback, worker=worker.MODULE)
    print_reused(screen, result, "This run is already finished (force=true runs it again).")
    print_result(screen, result)
    return 0


def _parse(composed: compose.Composed) -> StudentSpec:
    from graphkd.run import parse

    spec = parse({**composed.config, "varied": compose.varied(composed.overrides)})
    compose.check_used(composed, spec.unused_nodes)
    return spec


def _sweep(options: argparse.Namespace) -> int:
    """Run every combination of a grid, after checking all of them and their data; leave others to the sweeper."""
    from graphkd.run import check_parts

    compose.check_multirun("config", options.overrides, options.config_dir)
    combinations = compose.expand_sweep(options.overrides)
    if combinations is None:
        check(
            not _ways_given(options),
            "run: --jobs, --group and --alone have no effect under a sweeper that chooses the next runs",
        )
        return _search(options)
    specs = [_parse(compose.compose(overrides, options.config_dir)) for overrides in combinations]
    names = [" ".join(words) for words in combinations]
    launcher = split_hydra(options.overrides)[0]
    with cached_fingerprints():
        _check_folders(specs)
        check_parts(zip(names, specs, strict=True), rehearses=not launcher)
    failed = launch(specs, Ways.chosen(options, launcher, options.config_dir))
    for results, study in dict.fromkeys((spec.config["results"], spec.config["study"]) for spec in specs):
        print(f"their table: graphkd report {shlex.quote(results)} --study {shlex.quote(study)}")
    return conclude(names, failed)


def _search(options: argparse.Namespace) -> int:
    """Leave the runs to a sweeper that chooses them by earlier scores."""
    import yaml

    from graphkd.run.folder import launch_folder
    from graphkd_cli.progress import several

    with launch_folder(_results(options)) as folder:
        with several():
            compose.sweep(options.overrides, options.config_dir, folder, job)
        found = folder / "optimization_results.yaml"  # written by sweepers that search, by Hydra's convention
        if found.exists():
            for name, value in yaml.safe_load(found.read_text()).items():
                print(f"{name}: {value}")
    return 0


def _results(options: argparse.Namespace) -> Path:
    """Return the results folder of a sweep whose runs only the sweeper knows."""
    given = [override for override in options.overrides if override.startswith("results=")]
    return Path(compose.compose(given, options.config_dir).config["results"])


def _check_folders(specs: Sequence[StudentSpec]) -> None:
    runs: dict[Path, tuple[str, int]] = {}
    for spec in specs:
        run = (spec.identity, spec.seed)
        same = runs.setdefault(spec.folder, run) == run
        check(same, f"run_dir: two runs of the sweep cannot share the folder {spec.folder}")


def job(config: Any) -> float | None:
    """Execute one job of a sweep, for Hydra's launcher; return the validation score for the sweeper."""
    from hydra.core.hydra_config import HydraConfig

    from graphkd.run import run
    from graphkd.run.folder import is_done
    from graphkd_cli.printing import console, print_line, result_line, rounded
    from graphkd_cli.progress import present_runs

    composed = compose.resolve_job(config, HydraConfig.get().overrides.task)
    runs = present_runs()
    try:
        with runs.watch() as callback:
            spec = _parse(composed)
            if not is_done(spec.folder, spec.identity, spec.seed):
                _check_score(spec.data)
            result = run(spec, callback, worker=worker.MODULE)
    except Exception as error:
        print_line(console(), f"{' '.join(composed.overrides)}: failed: {one_line(error)}")
        raise
    score = result.record.metrics.val_top1_best
    line = f"{' '.join(composed.overrides)}: validation {rounded(score, 2)} %; {result_line(result)}"
    runs.finished(line, trained=not result.reused)
    return score


def _check_score(data: Part) -> None:
    """Check that a data set has the split that gives the sweeper its score, before anything is trained on it."""
    document = json.dumps(data.document, sort_keys=True)
    if document in _scored:
        return
    check(
        "val" in data.build().splits,
        f"a search goes by validation scores, but data '{data.name}' has no validation split here: "
        "data.val_fraction=0.1 holds one out",
    )
    _scored.add(document)


def _show(options: argparse.Namespace) -> int:
    options.overrides = in_grammar(options.overrides)
    with hydra_session(options.config_dir) as hydra:
        if options.hydra_help:
            parser = arguments_parser("run")
            call(lambda: hydra.hydra_help("config", parser, options))
        elif options.info:
            call(lambda: hydra.show_info(options.info, config_name="config", overrides=options.overrides))
        elif options.cfg == "job" and not options.package:
            return _show_job(options)
        else:
            call(
                lambda: hydra.show_cfg(
                    "config", options.overrides, options.cfg, options.package, resolve=options.resolve
                )
            )
    return 0


def _show_job(options: argparse.Namespace) -> int:
    """Print the checked, resolved config, as a run's folder holds it."""
    import yaml

    composed = compose.compose(options.overrides, options.config_dir)
    _parse(composed)
    yaml.safe_dump(composed.config, sys.stdout, sort_keys=False)
    return 0
