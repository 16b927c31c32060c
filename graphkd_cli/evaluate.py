"""`graphkd evaluate`: accuracy of a run or a file of weights."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import exists
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphkd.errors import UserError, check
from graphkd_cli import compose
from graphkd_cli.arguments import CommandParser
from graphkd_cli.overrides import split_words

if TYPE_CHECKING:
    from graphkd.data import Dataset
    from graphkd.model import Network

HELP = """\
usage: graphkd evaluate RUN|CHECKPOINT [OVERRIDES] [--split test] [--config-dir DIR]

Prints accuracy, negative log-likelihood and agreement with the teacher: a run's own, or the one that is given.

  graphkd evaluate results/.../seed-0                        a run's folder, on its own data
  graphkd evaluate results/.../seed-0 data.split_seed=1      with other options of its data
  graphkd evaluate results/.../seed-0 data.root=FOLDER       on its data, which have moved
  graphkd evaluate results/.../seed-0 data=cifar10           on other data
  graphkd evaluate teacher.pth student=resnet32x4 data=...   a file of weights, for the network that `student` names
  teacher=NAME teacher.checkpoint=FILE                       compare with this teacher instead
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = CommandParser("evaluate")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--split", default="test")
    options = parser.parse_intermixed_args(list(arguments))
    places, overrides = split_words(options.words, exists)
    check(len(places) > 0, "evaluate: which run or checkpoint? (see graphkd evaluate --help)")
    check(len(places) == 1, f"evaluate: one run or checkpoint at a time, not {' and '.join(places)}")
    path = Path(places[0])
    check(path.exists(), f"there is no run or checkpoint {path}")
    asked = compose.nodes(overrides)
    if path.is_dir():
        student, dataset, config, teacher = _of_run(path, overrides, options.config_dir)
    else:
        config = compose.compose(overrides, options.config_dir).config
        check("student" in asked, f"evaluate: which network does {path} belong to? Name it: student=resnet8x4")
        student, dataset = _of_checkpoint(path, config)
        teacher = None
    if "teacher" in asked:
        teacher = _teacher(config, dataset)

    from graphkd.engine.evaluate import evaluate
    from graphkd_cli.printing import console, print_figures, rounded

    found = evaluate(student, dataset, options.split, teacher=teacher)
    figures = {
        "top-1 (%)": rounded(found.top1, 2),
        "top-5 (%)": rounded(found.top5, 2),
        "negative log-likelihood": rounded(found.nll, 4),
        "agreement with the teacher (%)": rounded(found.agreement, 2),
    }
    print_figures(console(), f"{path} on {options.split} ({found.samples} samples)", figures)
    return 0


def _of_run(
    folder: Path, overrides: Sequence[str], config_dir: str | None
) -> tuple[Network, Dataset, dict[str, Any], Network | None]:
    """Return the student of a run, its data and its config, both with the overrides, and its teacher if still there."""
    from graphkd.binding import convert
    from graphkd.registry import import_plugins
    from graphkd.run.finished import check_fits, load
    from graphkd.run.folder import CONFIG, done_record, read_config

    done_record(folder)
    asked = compose.nodes(overrides)
    unknown = asked - {"data", "teacher", "plugins"}
    check(not unknown, f"evaluate: a run has its own {', '.join(sorted(unknown))}; override only data and teacher")
    config = compose.with_overrides(read_config(folder / CONFIG), overrides, config_dir)
    import_plugins(convert(config.get("plugins", []), list[str], "plugins"))
    finished = load(folder, data=config["data"] if "data" in asked else None)
    note = check_fits(finished, finished.dataset, str(folder))
    _tell([] if note is None else [note])
    try:
        teacher = None if "teacher" in asked else finished.teacher
    except UserError as error:
        teacher = None
        _tell([f"{error}; nothing is compared with it"])
    return finished.student, finished.dataset, config, teacher


def _of_checkpoint(path: Path, config: dict[str, Any]) -> tuple[Network, Dataset]:
    from graphkd.run import parse

    spec = parse(config)
    dataset = spec.data.build()
    student = spec.network(dataset)
    _fill(student, path)
    return student, dataset


def _teacher(config: dict[str, Any], dataset: Dataset) -> Network:
    from graphkd.run import parse_teacher

    spec = parse_teacher(config)
    if spec.checkpoint is None:
        raise UserError("evaluate: the teacher to compare with needs teacher.checkpoint=FILE")
    teacher = spec.network(dataset)
    _fill(teacher, spec.checkpoint)
    return teacher.eval()


def _fill(network: Network, path: Path) -> None:
    """Load weights and print notes on their file."""
    from graphkd.engine.weights import load_weights

    _tell(load_weights(network, path))


def _tell(notes: Sequence[str]) -> None:
    from graphkd_cli.printing import console, print_line

    for note in notes:
        print_line(console(), note)
