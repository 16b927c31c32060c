"""`graphkd list`: all parts, pairs, suites and table layouts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphkd.binding import convert, describe
from graphkd.errors import check, one_of
from graphkd.report.markup import NONE, Block
from graphkd.yaml_files import read_yaml
from graphkd_cli import compose
from graphkd_cli.arguments import CommandParser
from graphkd_cli.config_files import config_names, config_paths
from graphkd_cli.overrides import split_words

if TYPE_CHECKING:
    from graphkd.registry import Registry

REGISTRIES = {
    "builders": "BUILDERS", "gnns": "GNNS", "objectives": "OBJECTIVES", "relations": "RELATIONS",
    "discrepancies": "DISCREPANCIES", "models": "MODELS", "data": "DATASETS",
    "loggers": "LOGGERS",
}  # fmt: skip
_GROUPS = {"pairs": "pair", "suites": "ablation", "tables": "table"}
KINDS = (*REGISTRIES, *_GROUPS)
_ALSO = {"encoders": "gnns"}
_NOT_OPTIONS = ("name", "checkpoint", "drop_head", "seed", "input", "train_fraction")
"""What a teacher's or student's node has beside the options of its network."""
_CLASSES, _CHANNELS, _SIZE = 100, 3, 32
_FIGURES = ("parameters (M)", "multiply-adds (M)", "feature maps", "embedding")
_CAPTION = (
    f"Figures for {_CLASSES} classes and {_CHANNELS}x{_SIZE}x{_SIZE} images; maps as channels x height x width.",
    "NAME is any name of that library; give options as in student={name: torchvision/resnet18, weights: DEFAULT}",
)
HELP = f"""\
usage: graphkd list [{"|".join(KINDS)}] [plugins=[MODULE,...]] [--config-dir DIR]

Lists every part, pair, suite and table layout. For the kinds that are named also the options with their defaults, and
of models the cost and feature shapes.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = CommandParser("list")
    parser.add_argument("words", nargs="*")
    options = parser.parse_intermixed_args(list(arguments))
    kinds, overrides = split_words(options.words)
    kinds = [one_of(_ALSO.get(kind, kind), KINDS, "there is no list") for kind in kinds]
    for override in overrides:
        check(override.startswith("plugins="), f"'{override}': list takes no overrides but plugins=[MODULE]")

    from graphkd.registry import import_plugins
    from graphkd_cli.printing import console, print_block, print_text

    if overrides:
        plugins = compose.compose(overrides, options.config_dir).config["plugins"]
        import_plugins(convert(plugins, list[str], "plugins"))
    # All are made before the first is printed: a mistake in a file is told in one line.
    make = _in_full if kinds else _overview
    blocks = {kind: make(kind, options.config_dir) for kind in kinds or KINDS}
    screen = console()
    for kind, block in blocks.items():
        print_text(screen, kind)
        print_block(screen, block, texts=[1, len(block.header) - 1], rules=bool(kinds) and kind in REGISTRIES)
        for line in _CAPTION if kinds and kind == "models" else ():
            print_text(screen, line)
    if not kinds:
        print_text(screen, f"options of each: graphkd list KIND (kinds: {', '.join(KINDS)})")
    return 0


def _overview(kind: str, config_dir: str | None) -> Block:
    """Return names and what stands behind them; composes and builds nothing, for it is what newcomers see first."""
    import graphkd

    if kind in REGISTRIES:
        registry = getattr(graphkd, REGISTRIES[kind])
        return Block.of(("name", "what it is"), [(name, registry.summary(name)) for name in _entries(registry)])
    files = {name: _mapping(path) for name, path in config_paths(_GROUPS[kind], config_dir).items()}
    if kind == "pairs":
        networks = [
            (name, *(_network(node.get(side)) for side in ("teacher", "student"))) for name, node in files.items()
        ]
        return Block.of(("name", "teacher", "student"), networks)
    described = [(name, str(node.get("description", ""))) for name, node in files.items()]
    return Block.of(("name", "what it shows"), described)


def _in_full(kind: str, config_dir: str | None) -> Block:
    return _parts(kind) if kind in REGISTRIES else _PRESETS[kind](config_dir)


def _mapping(path: Path) -> dict[str, Any]:
    node = read_yaml(path)
    return node if isinstance(node, dict) else {}


def _entries(registry: Registry[Any]) -> list[str]:
    """Return the names of a registry and, for each library that it opens, how its names are written."""
    return [*registry.names(), *(f"{family}/NAME" for family in registry.families())]


def _parts(kind: str) -> Block:
    import graphkd

    registry = getattr(graphkd, REGISTRIES[kind])
    figures = _FIGURES if kind == "models" else ()
    rows = []
    for name in _entries(registry):
        options = [
            f"{option.name} ({'required' if option.required else _yaml(option.default)}): {describe(option.annotation)}"
            for option in registry.options(name).values()
        ]
        cells = _figures(name) if figures else []
        rows.append((name, registry.summary(name), *cells, "\n".join(options) or "none"))
    return Block.of(("name", "what it is", *figures, "options (default)"), rows, tail=1)


def _figures(name: str) -> list[str]:
    """Return a model's cost and output shapes; empty for a family or a model for other images."""
    from graphkd import MODELS
    from graphkd.model import output_shapes
    from graphkd.model.complexity import complexity

    if name not in MODELS.names():
        return [""] * len(_FIGURES)
    try:
        network = MODELS.build(name, num_classes=_CLASSES, in_channels=_CHANNELS)
        shapes = output_shapes(network, _CHANNELS, _SIZE)
        cost = complexity(network, _CHANNELS, _SIZE)
    except Exception:  # list all models, even if one of a plug-in is broken
        return [""] * len(_FIGURES)
    maps = ", ".join("x".join(str(extent) for extent in shape) for shape in shapes.features)
    return [f"{cost.parameters / 1e6:.2f}", f"{cost.multiply_adds / 1e6:.1f}", maps, str(shapes.embedding)]


def _suites(config_dir: str | None) -> Block:
    from graphkd_cli.studies import read_suite, suite_names

    suites = {name: read_suite(name, config_dir) for name in suite_names(config_dir)}
    rows = [
        (name, suite.description, str(len(suite.variants)), str(len(suite.seeds))) for name, suite in suites.items()
    ]
    return Block.of(("name", "what it shows", "variants", "seeds"), rows, tail=1)


def _pairs(config_dir: str | None) -> Block:
    rows = []
    for name in config_names("pair", config_dir):
        config = compose.compose([f"pair={name}"], config_dir).config
        trainer = config["trainer"]
        lr = _yaml(trainer.get("lr")) if isinstance(trainer, dict) else NONE
        rows.append((name, *(_network(config[side]) for side in ("teacher", "student")), lr))
    return Block.of(("name", "teacher", "student", "learning rate of the student"), rows, tail=1)


def _network(node: Any) -> str:
    """Return a network's name with the options that its pair gives it; a dash where a user's pair names none."""
    if not isinstance(node, dict) or "name" not in node:
        return node if isinstance(node, str) else NONE
    options = {key: value for key, value in node.items() if key not in _NOT_OPTIONS}
    return " ".join([str(node["name"]), *(f"{key}={_yaml(value)}" for key, value in options.items())])


def _tables(config_dir: str | None) -> Block:
    from graphkd.report.tables import TableSpec
    from graphkd_cli.studies import read_spec

    specs = {name: read_spec(name, config_dir) for name in config_names("table", config_dir)}
    rows = [
        (name, spec.description, spec.layout, ", ".join(spec.columns if isinstance(spec, TableSpec) else spec.rows))
        for name, spec in specs.items()
    ]
    return Block.of(("name", "what it shows", "layout", "columns, or rows of a grid"), rows)


_PRESETS = {"pairs": _pairs, "suites": _suites, "tables": _tables}


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(list(value)) if isinstance(value, (list, tuple)) else str(value)
