"""`graphkd show`: what a run was, how it went, and pictures of its graphs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from os.path import exists
from pathlib import Path
from typing import Any

from graphkd.errors import UserError, check, one_line
from graphkd.identity import short
from graphkd.report.record import Record
from graphkd_cli import compose
from graphkd_cli.arguments import CommandParser
from graphkd_cli.overrides import split_words
from graphkd_cli.printing import console, print_figures, print_line, rounded

HELP = """\
usage: graphkd show RUN [data.root=FOLDER ...] [--classes N] [--out DIR] [--config-dir DIR]

Prints a finished run: what it was, and its curves. Draws, as PNG and SVG, on images of its test split:

  graphs        the batch graphs of teacher and student beside each other; edges within a class and between classes
  relations     the cosines of all embeddings and of all class probabilities
  embeddings    t-SNE of the embeddings
  training      homophily and overlap of the graphs over the epochs

  --classes N   images of so many classes (default: 8)
  --out DIR     output folder (default: RUN/pictures)
"""
BARS = "▁▂▃▄▅▆▇█"
LONGEST_CURVE = 60


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = CommandParser("show")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--out")
    options = parser.parse_intermixed_args(list(arguments))
    runs, overrides = split_words(options.words, exists)
    check(len(runs) == 1, "show: which run? Name one folder (see graphkd show --help)")
    asked = compose.nodes(overrides)
    check(asked <= {"data"}, f"show: a run has its own {', '.join(sorted(asked - {'data'}))}; override only data")
    check(options.out != "", "--out is '', but must be the path of a folder")
    check(options.classes >= 2, f"--classes is {options.classes}, but must be at least 2")

    from graphkd.binding import convert
    from graphkd.registry import import_plugins
    from graphkd.report.figures import write_figures
    from graphkd.run.folder import CONFIG, METRICS, WEIGHTS, done_record, read_config
    from graphkd.show import draw_pictures, inspect

    folder = Path(runs[0])
    record = done_record(folder)
    of_student = record.kind == "student" and (folder / WEIGHTS["student"]).is_file()
    check(of_student, f"{folder} holds no student's weights; give the folder of a student's run")
    config = compose.with_overrides(read_config(folder / CONFIG), overrides, options.config_dir)
    import_plugins(convert(config.get("plugins", []), list[str], "plugins"))
    epochs = _epochs(folder / METRICS)
    screen = console()
    print_figures(screen, str(folder), _facts(config, record))
    print_figures(screen, "over the epochs", _curves(epochs))
    inspection = inspect(folder, config["data"] if asked else None, classes=options.classes)
    for path in write_figures(draw_pictures(inspection, epochs), options.out or folder / "pictures"):
        print_line(screen, f"written: {path}")
    return 0


def _epochs(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics; raise a `UserError` if they cannot be read."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error


def _facts(config: Mapping[str, Any], record: Record) -> dict[str, str | None]:
    """Return what a run was and reached, by name."""
    trainer, objective = config["trainer"], config["objective"]
    return {
        "run": f"{record.study} / {record.variant}, seed {record.seed}",
        "pair": f"{record.pair} on {record.data}",
        "objective": " + ".join(_term(name, term) for name, term in objective.items()),
        **{part: _part(config, part) for part in ("builder", "gnn")},
        "trainer": f"{trainer['epochs']} epochs, batch {trainer['batch_size']}, learning rate {trainer['lr']}",
        "test top-1 (%)": rounded(record.metrics.test_top1_last, 2),
        "teacher's test top-1 (%)": rounded(record.teacher.accuracy if record.teacher else None, 2),
        "agreement with the teacher (%)": rounded(record.metrics.agreement_last, 2),
        "seconds": rounded(record.duration_s, 1),
        "identity": short(record.identity),
    }


def _term(name: str, term: Any) -> str:
    weight = term.get("weight", 1.0) if isinstance(term, Mapping) else 1.0
    return f"{weight} {name}" if isinstance(weight, (int, float)) else f"{weight} of {name}"


def _part(config: Mapping[str, Any], part: str) -> str | None:
    """Return the builders or encoders of the terms: each one's own, or else the top-level one; None without."""
    takers = [term for term in config["objective"].values() if isinstance(term, Mapping) and part in term]
    return "; ".join(dict.fromkeys(_node(term[part] or config[part]) for term in takers)) or None


def _node(node: Any) -> str:
    """Return a part's name and options on one line."""
    if not isinstance(node, Mapping):
        return str(node)
    options = ", ".join(f"{key}={value}" for key, value in node.items() if key != "name" and value is not None)
    return f"{node['name']} ({options})" if options else str(node["name"])


def _curves(epochs: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """Return curves of accuracy, terms and diagnostics over a training's own epochs, by name."""
    own = [epoch for epoch in epochs if epoch["stage"] is None]
    values: dict[str, list[float | None]] = {"train top-1 (%)": [epoch["train_top1"] for epoch in own]}
    for split in ("val", "test"):
        values[f"{split} top-1 (%)"] = [epoch[split] and epoch[split]["top1"] for epoch in own]
    for key, part in (("terms", "raw"), ("diagnostics", None)):
        for name in dict.fromkeys(name for epoch in own for name in epoch.get(key, {})):
            found = [epoch.get(key, {}).get(name) for epoch in own]
            values[name] = found if part is None else [value and value[part] for value in found]
    return {name: _curve([value for value in of if value is not None]) for name, of in values.items()}


def _curve(values: Sequence[float]) -> str | None:
    """Return values as bars between their least and greatest, with the first and last; None without values."""
    if not values:
        return None
    step = max(1, math.ceil(len(values) / LONGEST_CURVE))
    low, high = min(values), max(values)
    bars = [BARS[round((len(BARS) - 1) * (value - low) / ((high - low) or 1))] for value in values[::-step][::-1]]
    return f"{''.join(bars)}  {values[0]:.4g} -> {values[-1]:.4g}"
