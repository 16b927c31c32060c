"""`graphkd evaluate`: how good a run or a file of weights is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphkd.errors import check
from graphkd_cli import compose

HELP = """\
usage: graphkd evaluate RUN|CHECKPOINT [OVERRIDES] [--split test] [--config-dir DIR]

Accuracy, negative log-likelihood and, where a teacher is given, agreement with it.

  graphkd evaluate results/.../seed-0                        a run's folder, on its own data
  graphkd evaluate results/.../seed-0 data.split_seed=1      with other options of its data
  graphkd evaluate results/.../seed-0 data.root=FOLDER       on its data, which moved
  graphkd evaluate results/.../seed-0 data=cifar10           on other data
  graphkd evaluate teacher.pth student=resnet32x4 data=...   a file of weights, for the network that `student` names
  teacher=NAME teacher.checkpoint=FILE                       compare with this teacher
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = compose.CommandParser("evaluate")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--split", default="test")
    options = parser.parse_intermixed_args(list(arguments))
    if options.help:
        print(HELP, end="")
        return 0
    check(len(options.words) > 0, "evaluate: which run or checkpoint? (see graphkd evaluate --help)")
    at = next((at for at, word in enumerate(options.words) if "=" not in word), 0)
    path, overrides = Path(options.words.pop(at)), options.words
    check(path.exists(), f"there is no run or checkpoint {path}")
    if path.is_dir():
        _evaluate_run(path, overrides, options.config_dir, options.split)
    else:
        _evaluate_checkpoint(path, compose.compose(overrides, options.config_dir), options.split)
    return 0


def _evaluate_run(folder: Path, overrides: Sequence[str], config_dir: str | None, split: str) -> None:
    from graphkd.binding import convert
    from graphkd.registry import import_plugins
    from graphkd.run.finished import check_fits, load
    from graphkd.run.folder import CONFIG, done_record, read_config

    done_record(folder)
    asked = compose.nodes(overrides)
    unknown = asked - {"data", "teacher", "plugins"}
    check(not unknown, f"evaluate: a run brings its own {', '.join(sorted(unknown))}; override data or teacher only")
    config = compose.over(read_config(folder / CONFIG), overrides, config_dir)
    import_plugins(convert(config.get("plugins", []), list[str], "plugins"))
    finished = load(folder, data=config["data"] if "data" in asked else None)
    dataset = finished.dataset
    note = check_fits(finished, dataset, str(folder))
    if note is not None:
        _tell(note)
    teacher = _teacher(config, dataset) if "teacher" in asked else None
    _show(str(folder), finished.student, dataset, split, teacher)


def _evaluate_checkpoint(path: Path, composed: compose.Composed, split: str) -> None:
    from graphkd.run import parse

    asked = compose.nodes(composed.overrides)
    check("student" in asked, f"evaluate: which network is {path} of? Say so: student=resnet8x4")
    spec = parse(composed.config)
    dataset = spec.data.build()
    student = spec.network(dataset)
    _fill(student, path)
    teacher = _teacher(composed.config, dataset) if "teacher" in asked else None
    _show(str(path), student, dataset, split, teacher)


def _teacher(config: dict[str, Any], dataset: Any) -> Any:
    from graphkd.run import parse_teacher

    spec = parse_teacher(config)
    check(spec.checkpoint is not None, "evaluate: a teacher to compare with needs teacher.checkpoint=FILE")
    assert spec.checkpoint is not None
    teacher = spec.network(dataset)
    _fill(teacher, spec.checkpoint)
    return teacher.eval()


def _fill(network: Any, path: Path) -> None:
    """Load weights and show what there is to say of their file."""
    from graphkd.engine.checkpoint import load_weights

    for note in load_weights(network, path):
        _tell(note)


def _tell(note: str) -> None:
    from graphkd_cli.show import console, print_line

    print_line(console(), note)


def _show(name: str, network: Any, dataset: Any, split: str, teacher: Any) -> None:
    from graphkd.engine.evaluate import evaluate
    from graphkd_cli.show import console, percent, print_figures, rounded

    found = evaluate(network, dataset, split, teacher=teacher)
    figures = {
        "top-1 (%)": percent(found.top1),
        "top-5 (%)": percent(found.top5),
        "negative log-likelihood": rounded(found.nll, 4),
        "agreement with the teacher (%)": percent(found.agreement),
    }
    print_figures(console(), f"{name} on {split} ({found.samples} samples)", figures)
