"""Parse a resolved config into the run that it describes; every check of a config is made here, once."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from graphkd.binding import bind, convert, options_of
from graphkd.builder import BUILDERS
from graphkd.data import DATASETS
from graphkd.discrepancy import DISCREPANCIES
from graphkd.engine.trainer import Trainer, checked_trainer
from graphkd.errors import UserError, brief, check, choices, one_of
from graphkd.files import real_folder
from graphkd.gnn import GNNS
from graphkd.logger import LOGGERS
from graphkd.model import MODELS, OwnInput
from graphkd.objective import OBJECTIVES, Objective
from graphkd.objective.schedule import Schedule
from graphkd.objective.weighted_sum import Weight, check_terms
from graphkd.registry import Registry, import_plugins
from graphkd.relation import RELATIONS
from graphkd.report.load import NOT_RUNS
from graphkd.run.build import SHARED, try_out
from graphkd.run.folder import read_config, weights_file, write_config
from graphkd.run.part import Part, Term
from graphkd.run.spec import GRAPH_KEYS, LONGEST_NAME, TEACHERS, RunSpec, StudentSpec, TeacherSpec

KEYS = {
    "seed", "teacher_gnn", "negatives", "results", "study", "variant", "varied", "run_dir", "force", "plugins", "bank",
    "builder", "gnn", "teacher", "student", "data", "trainer", "teacher_trainer", "objective", "logger",
}  # fmt: skip
TEACHER_KEYS: dict[str, Any] = {"seed": 0, "checkpoint": None, "train_fraction": 1.0, "input": None}
OWN_OPTIONS: dict[str, Any] = {
    "seed": int, "negatives": int, "results": str, "study": str, "variant": str | None, "run_dir": str | None,
    "force": bool, "plugins": list[str],
    "teacher.seed": int, "teacher.checkpoint": str | None, "teacher.train_fraction": float,
    "student.checkpoint": str | None, "student.drop_head": bool, "teacher.input.size": int | None,
    "teacher.input.mean": tuple[float, ...] | None, "teacher.input.std": tuple[float, ...] | None,
}  # fmt: skip
"""Options that belong to no constructor, by path."""
REGISTRIES: dict[str, Registry[Any]] = {
    "data": DATASETS, "student": MODELS, "teacher": MODELS, "builder": BUILDERS, "gnn": GNNS, "teacher_gnn": GNNS,
    "logger": LOGGERS,
    "relation": RELATIONS, "discrepancy": DISCREPANCIES,
}  # fmt: skip
OWN_PARTS = ("relation", "discrepancy")
"""Parts that a term names itself; there is none for all terms."""


def parse(config: Mapping[str, Any]) -> StudentSpec:
    """Return the student's run that a resolved config describes, with its teacher.

    All parts are checked against their constructors, including those that the objective does not use.

    Args:
        config: The config that Hydra composed, as plain containers.

    Raises:
        UserError: Something in it is unknown, missing, of a wrong type, unused, or out of range as far as that shows
            without networks and data; one line names it.
    """
    _check_config(config)
    run_dir = config.get("run_dir")
    inside = run_dir is not None and Path.cwd().is_relative_to(real_folder(Path(run_dir)).resolve())
    check(not inside, f"run_dir is {brief(run_dir)}, but must not be the current folder or a parent of it")
    _part(BUILDERS, config["builder"], "builder")
    _part(GNNS, config["gnn"], "gnn")
    _teacher_gnn(config["teacher_gnn"], "teacher_gnn")
    trainer = _trainer(config, "trainer")  # first: the teacher's trainer takes values from it
    teacher = _teacher({**config, "force": False})
    terms = _terms(config)
    model, checkpoint, drop_head = _student(config)
    needs_teacher = any(OBJECTIVES.factory(term.part.name).needs_teacher for term in terms.values())
    return StudentSpec(
        config={"run_dir": None, "variant": None, "varied": {}, **config},
        model=model,
        data=_part(DATASETS, config["data"], "data"),
        trainer=trainer,
        seed=config["seed"],
        checkpoint=checkpoint,
        teacher=teacher if needs_teacher else None,
        terms=terms,
        logger=_logger(config),
        drop_head=drop_head,
    )


def parse_teacher(config: Mapping[str, Any]) -> TeacherSpec:
    """Return the teacher's run that `teacher`, `teacher_trainer` and `data` of a resolved config describe.

    Raises:
        UserError: As in `parse`; also if `teacher.checkpoint` is neither a file nor a finished run's folder.
    """
    _check_config(config)
    return _teacher(config)


def parse_student(config: Mapping[str, Any]) -> tuple[Part, Part]:
    """Return the student's network and data of a resolved config, and ignore the rest.

    Raises:
        UserError: One of them is wrong.
    """
    _check_config(config)
    return _student(config)[0], _part(DATASETS, config["data"], "data")


def parse_graph_term(config: Mapping[str, Any]) -> Term | None:
    """Return the first term of a resolved config's objective that builds graphs, and ignore the rest.

    Raises:
        UserError: A term that takes a builder is wrong.
    """
    for name, node in config["objective"].items():
        if "builder" in options_of(OBJECTIVES.factory(_named(node, f"objective.{name}")["name"])):
            term = _term(config, name, node)
            if term.builder is not None:
                return term
    return None


PARSERS: dict[str, Callable[[Mapping[str, Any]], RunSpec]] = {"student": parse, "teacher": parse_teacher}
"""The parser of each kind of run."""


def write_spec(spec: RunSpec, path: Path) -> None:
    """Write a run for another process: its resolved config and its kind."""
    write_config({**spec.config, "kind": spec.kind}, path)


def read_spec(path: Path) -> RunSpec:
    """Read a run that `write_spec` wrote; a resolved config without a kind is a student's.

    Raises:
        UserError: It cannot be read, or as in `parse`.
    """
    config = read_config(path)
    kind = one_of(str(config.pop("kind", "student")), PARSERS, f"{path}: there is no kind of run")
    return PARSERS[kind](config)


def registry_at(node: str) -> Registry[Any] | None:
    """Return the registry of a config node such as `data` or `objective.hkd.gnn`."""
    path = node.split(".")
    if path[0] == "objective":
        return OBJECTIVES if len(path) == 2 else REGISTRIES.get(path[-1])
    return REGISTRIES.get(node)


def annotations_at(path: str) -> list[Any]:
    """Return the annotations of the option at a path of the config, one for each part that could stand there."""
    if path in OWN_OPTIONS:
        return [OWN_OPTIONS[path]]
    node, _, name = path.rpartition(".")
    registry = registry_at(node)
    known = options_of(Trainer) if node in ("trainer", "teacher_trainer") else {}
    held = registry.holders(name) if registry else {name: known[name]} if name in known else {}
    return [option.annotation for option in held.values()]


def absolute_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved config, of a run or a transfer, with absolute paths of results, data and weights."""
    resolved = {**config, "results": os.path.abspath(config["results"])}
    for side in ("student", "teacher"):
        if isinstance(config.get(side), Mapping) and config[side].get("checkpoint"):
            resolved[side] = {**config[side], "checkpoint": _absolute(config[side]["checkpoint"])}
    data = _named(config["data"], "data")
    paths = DATASETS.factory(data["name"]).PATHS
    resolved["data"] = {key: _absolute(value) if key in paths else value for key, value in data.items()}
    return resolved


def _absolute(value: Any) -> Any:
    """Return a path, a pattern or a list of them as absolute; anything but text is unchanged."""
    if isinstance(value, (list, tuple)):
        return [_absolute(item) for item in value]
    if not isinstance(value, str):
        return value
    path = os.path.abspath(os.path.expanduser(value))
    return path if os.path.exists(path) else os.path.join(glob.escape(os.getcwd()), os.path.expanduser(value))


def check_keys(config: Mapping[str, Any]) -> None:
    """Check the names and the plain values of a config's top level.

    Raises:
        UserError: A key is unknown or missing, or a value of a wrong type.
    """
    for key in config:
        one_of(str(key), KEYS, "the config has no node")
    for key in sorted(KEYS - {"varied", "run_dir", "variant", "logger", *config}):
        raise UserError(f"the config lacks the node '{key}'")
    for key in ("seed", "results", "study", "force", "variant", "run_dir"):
        _own_option(config.get(key), key)
    check_study(config["study"])
    if config.get("variant") is not None:
        check_plain(config["variant"], "variant")
    _check_seed(config["seed"], "seed")
    results, run_dir = config["results"], config.get("run_dir")
    check(_is_path(results), f"results is {brief(results)}, but must be the path of a folder")
    check(run_dir is None or _is_path(run_dir), f"run_dir is {brief(run_dir)}, but must be the path of a folder")
    _check_finite(config)


def check_study(name: str) -> None:
    """Check that a study's name can be that of a folder of results, and is not one that has another use there.

    Raises:
        UserError: It is not.
    """
    check_plain(name, "study")
    taken = sorted({TEACHERS, *NOT_RUNS})
    check(name not in taken, f"study is '{name}', but results has folders of another use by the names {choices(taken)}")


def check_plain(name: str, what: str) -> None:
    """Check that a name can be that of a folder; `what` is the beginning of the message.

    Raises:
        UserError: It is empty, too long, or has slashes or characters that cannot be printed.
    """
    plain = name not in ("", ".", "..") and name.isprintable() and not set(name) & set("/\\")
    check(plain, f"{what} is {brief(name)}, but must be a plain name: it becomes a folder of the results")
    check(len(name.encode()) <= LONGEST_NAME, f"{what} is longer than {LONGEST_NAME} bytes: {name[:40]!r}...")


def _own_option(value: Any, path: str) -> Any:
    """Return the value of one of `OWN_OPTIONS`, in its type."""
    return convert(value, OWN_OPTIONS[path], path)


def _check_seed(seed: int, what: str) -> None:
    check(seed >= 0, f"{what} is {seed}, but must be at least 0")
    check(seed < 2**63, f"{what} is {brief(seed)}, but must be below 2**63")


def _is_path(text: str) -> bool:
    return text != "" and text.isprintable()


def _check_finite(value: Any, where: str = "") -> None:
    """Refuse infinity and NaN: no option takes them, and an identity (JSON) cannot hold them."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_finite(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for item in value:
            _check_finite(item, where)
    else:
        check(not isinstance(value, float) or math.isfinite(value), f"{where} is {value}, but must be finite")


def _check_config(config: Mapping[str, Any]) -> None:
    """Check what belongs to no part, and import the plug-ins."""
    check_keys(config)
    plugins: tuple[str, ...] = _own_option(config["plugins"], "plugins")
    import_plugins(plugins)


def _teacher(config: Mapping[str, Any]) -> TeacherSpec:
    node = _named(config["teacher"], "teacher")
    own = {key: node.pop(key, default) for key, default in TEACHER_KEYS.items()}
    _named(config["student"], "student")
    seed: int = _own_option(own["seed"], "teacher.seed")
    fraction: float = _own_option(own["train_fraction"], "teacher.train_fraction")
    _check_seed(seed, "teacher.seed")
    check(0 < fraction <= 1, f"teacher.train_fraction is {fraction}, but must be above 0 and at most 1")
    return TeacherSpec(
        config=dict(config),
        model=_part(MODELS, node, "teacher"),
        data=_teacher_data(config, fraction),
        trainer=_trainer(config, "teacher_trainer"),
        seed=seed,
        checkpoint=_checkpoint(own["checkpoint"], "teacher.checkpoint"),
        input=convert(own["input"], OwnInput | None, "teacher.input"),
        logger=_logger(config),
    )


def _student(config: Mapping[str, Any]) -> tuple[Part, Path | None, bool]:
    """Return the student, the weights that it starts from, and whether it does so without their head."""
    node = _named(config["student"], "student")
    start = _checkpoint(node.pop("checkpoint", None), "student.checkpoint")
    drop_head: bool = _own_option(node.pop("drop_head", False), "student.drop_head")
    check(start is not None or not drop_head, "student.drop_head=true needs student.checkpoint, whose head it drops")
    return _part(MODELS, node, "student"), start, drop_head


def _checkpoint(value: Any, where: str) -> Path | None:
    path: str | None = _own_option(value, where)
    if path is None:
        return None
    place = Path(os.path.expanduser(path))
    check(place.exists(), f"{where}: there is no file {path}")
    try:
        return weights_file(place)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _named(node: Any, where: str) -> dict[str, Any]:
    """Return a part's node as a mapping with a name; a bare string stands for its name."""
    if isinstance(node, str):
        return {"name": node}
    check(isinstance(node, Mapping), f"{where} is {brief(node)}, but must be a name or a mapping with a name")
    check(isinstance(node.get("name"), str), f"{where} needs a name, for example {where}.name=...")
    return dict(node)


def _part(registry: Registry[Any], node: Any, where: str) -> Part:
    options = _named(node, where)
    name = options.pop("name")
    supplied = sorted(registry.runtime & set(options))
    check(not supplied, f"{where}: '{', '.join(supplied)}' is not an option; graphkd supplies it")
    return Part(registry, name, registry.bind(name, options))


def _trainer(config: Mapping[str, Any], key: str) -> Trainer:
    check(isinstance(config[key], Mapping), f"{key} is {brief(config[key])}, but must be a mapping of options")
    return checked_trainer(bind(config[key], options_of(Trainer), key).all, key)


def _teacher_data(config: Mapping[str, Any], fraction: float) -> Part:
    data = _part(DATASETS, config["data"], "data")
    if "train_fraction" not in data.bound.all:
        check(fraction == 1, f"teacher.train_fraction is {fraction}, but data set '{data.name}' has no such option")
        return data
    return _part(DATASETS, {**data.document, "train_fraction": fraction}, "data")


def _logger(config: Mapping[str, Any]) -> Part | None:
    node = config.get("logger")
    return None if node is None else _part(LOGGERS, node, "logger")


def _terms(config: Mapping[str, Any]) -> dict[str, Term]:
    objective = config["objective"]
    is_composition = isinstance(objective, Mapping) and len(objective) > 0
    check(is_composition, f"objective is {brief(objective)}, but must be a mapping from a name to a term")
    for name in objective:
        check_plain(str(name), "the name of a term in objective")
    terms = {str(name): _term(config, str(name), node) for name, node in objective.items()}
    check_terms({name: (OBJECTIVES.factory(term.part.name), term.weight) for name, term in terms.items()})
    for name, term in terms.items():
        try_out(name, term)
    return terms


def _term(config: Mapping[str, Any], name: str, node: Any) -> Term:
    where = f"objective.{name}"
    options = _named(node, where)
    weight = _weight(options.pop("weight", 1.0), f"{where}.weight")
    schedule = _schedule(options.pop("schedule", None), f"{where}.schedule")
    factory = OBJECTIVES.factory(options["name"])
    known = options_of(factory)
    graph_keys = GRAPH_KEYS if "student_gnn" in known else GRAPH_KEYS[:1] if "builder" in known else ()
    shared = {key for key in Objective.SHARED if key in known and key in options and options[key] == config[key]}
    own = {key: options.pop(key, None) for key in graph_keys}
    own_parts = {key: _own_part(options, key, where) for key in OWN_PARTS if key in known}
    part = _part(OBJECTIVES, options, where)
    if not factory.builds_graphs(part.bound.all):
        for key, value in own.items():
            check(value is None, f"{where}.{key} is given, but with these options '{part.name}' uses no graph")
        return Term(part, weight, schedule, reads=frozenset(shared), own_parts=own_parts)
    dim = factory.graph_dim(part.bound.all)
    check(
        dim is None or dim >= 1, f"{where}: dim is {dim}, but must be at least 1, the width of its graphs' embeddings"
    )
    nodes = {key: config[key] if value is None else value for key, value in own.items()}
    return Term(
        part, weight, schedule, dim,
        builder=_part(BUILDERS, nodes["builder"], f"{where}.builder"),
        gnn=_part(GNNS, nodes["gnn"], f"{where}.gnn") if "gnn" in nodes else None,
        teacher_gnn=_teacher_gnn(nodes.get("teacher_gnn"), f"{where}.teacher_gnn"),
        reads=frozenset({*shared, *(key for key, value in own.items() if value is None)}),
        own_parts=own_parts,
    )  # fmt: skip


def _own_part(options: dict[str, Any], key: str, where: str) -> Part:
    """Take a part that a term names itself out of the term's options."""
    names = choices(REGISTRIES[key].names())
    check(options.get(key) is not None, f"{where} needs a {key}, for example {where}.{key}=NAME (choices: {names})")
    return _part(REGISTRIES[key], options.pop(key), f"{where}.{key}")


def _teacher_gnn(node: Any, where: str) -> Part | Literal["shared"] | None:
    if node is None:
        return None
    return SHARED if node == SHARED else _part(GNNS, node, where)


def _schedule(value: Any, where: str) -> Schedule | None:
    if value is None:
        return None
    points = convert(value, Sequence[Sequence[float]], where)
    check(all(len(point) == 2 for point in points), f"{where} is {brief(value)}, but must be [[share, factor], ...]")
    try:
        return Schedule([(share, factor) for share, factor in points])
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _weight(value: Any, where: str) -> Weight:
    if isinstance(value, Mapping):
        return {str(part): convert(weight, float, f"{where}.{part}") for part, weight in value.items()}
    weight: float = convert(value, float, where)
    return weight
