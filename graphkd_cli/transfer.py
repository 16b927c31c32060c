"""`graphkd transfer`: probe students' features on another data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os.path import exists
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphkd.errors import UserError, check, one_line
from graphkd_cli import compose, studies
from graphkd_cli.arguments import CommandParser
from graphkd_cli.overrides import split_words

if TYPE_CHECKING:
    from graphkd.data import Dataset
    from graphkd.run.part import Part
    from graphkd.run.probe import Target

HELP = """\
usage: graphkd transfer RUN|FOLDER [OVERRIDES] [--config-dir DIR]

Freezes a finished student, trains a linear classifier on its pooled features of another data set, and writes a record
in the study <the student's study>_transfer. For a folder, probes every finished student at or below it, then writes the
tables of these studies. Finished probes are kept.

  graphkd transfer results/table1 data=stl10       every student of a study
  data=NAME data.option=VALUE                      the new data (`graphkd list data`)
  data.option=VALUE                                without a name: the student's own data, with other options
  probe.epochs=100 probe.lr=0.1                    the classifier's training, with a trainer's options
  results=DIR study=NAME                           where to write the records
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = CommandParser("transfer")
    parser.add_argument("words", nargs="*")
    options = parser.parse_intermixed_args(list(arguments))
    places, overrides = split_words(options.words, exists)
    check(len(places) > 0, "transfer: which run or results folder? (see graphkd transfer --help)")
    check(len(places) == 1, f"transfer: one run or folder at a time, not {' and '.join(places)}")

    from graphkd.run.folder import CONFIG, read_config
    from graphkd.run.probe import find_students

    target_of = targets(overrides, options.config_dir)  # before the search for students: it reports mistakes
    folders = find_students(places[0])
    found = [target_of(read_config(folder / CONFIG)) for folder in folders]
    if folders == [Path(places[0])]:  # the run itself
        _transfer_one(folders[0], found[0])
        return 0
    return _transfer_all(folders, found, options.config_dir)


def targets(overrides: Sequence[str], config_dir: str | None) -> Callable[[Mapping[str, Any]], Target]:
    """Return what gives the target of a student by its run's config: other data, or its own with other options.

    Raises:
        UserError: An override is wrong; one of the data may be told only with a student's config.
    """
    from graphkd.binding import bind, options_of
    from graphkd.run.probe import parse_target

    data = [word for word in overrides if compose.nodes([word]) == {"data"}]
    others = [word for word in overrides if not word.lstrip("+~").startswith("data.")]
    config = compose.compose(others, config_dir, "transfer").config
    options = options_of(parse_target)
    bind({**config, "data": {}}, options, "transfer")

    def target_of(student: Mapping[str, Any]) -> Target:
        chosen = compose.with_overrides({"data": student.get("data")}, data, config_dir, "transfer")
        return parse_target(**bind({**config, **chosen}, options, "transfer").all)

    return target_of


def _transfer_one(folder: Path, target: Target) -> None:
    from graphkd.run import run
    from graphkd_cli.printing import console, print_result
    from graphkd_cli.progress import ProgressCallback

    screen = console()
    with ProgressCallback(screen) as callback:
        result = run(target.spec(folder), callback)
    if result.reused:
        screen.print("This probe is already finished.", highlight=False)
    print_result(screen, result)


def _transfer_all(folders: Sequence[Path], targets: Sequence[Target], config_dir: str | None) -> int:
    """Transfer students one after another, then print the tables of their studies; return the exit code."""
    from graphkd.run import run
    from graphkd_cli.printing import result_line
    from graphkd_cli.progress import Runs

    runs = Runs(len(folders), "probe")
    part: Part | None = None
    dataset: Dataset | None = None
    sources: dict[str, str] = {}
    failed = 0
    for folder, target in zip(folders, targets, strict=True):
        try:
            if target.data != part:
                part, dataset = target.data, target.data.build()
            spec = target.spec(folder)
            with runs.watch() as callback:
                result = run(spec, callback, dataset=dataset)
        except Exception as error:
            failed += 1
            why = str(error) if isinstance(error, UserError) else one_line(error)
            runs.finished(f"{folder}: failed: {why}")
            continue
        runs.finished(result_line(result), trained=not result.reused)
        sources[result.record.study] = spec.student.record.study
    for study, source in sources.items():
        suite = studies.read_suite(source, config_dir) if source in studies.suite_names(config_dir) else None
        studies.write_study(Path(targets[0].results), study, suite, config_dir)
    return 1 if failed else 0
