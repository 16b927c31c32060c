"""From a resolved config to objects: the only module that knows every registry."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from graphkd.binding import Bound, bind, convert, options_of
from graphkd.builder import BUILDERS
from graphkd.data import DATASETS, Dataset
from graphkd.engine.seeding import initialising
from graphkd.engine.trainer import Trainer, checked_trainer
from graphkd.errors import UserError, brief, check, choices, did_you_mean
from graphkd.gnn import GNNS
from graphkd.identity import identity, short
from graphkd.model import MODELS, Network
from graphkd.model.base import output_shapes
from graphkd.objective import OBJECTIVES, WeightedSum
from graphkd.objective.weighted_sum import Weight, check_terms
from graphkd.registry import Registry, import_plugins

KEYS = {
    "seed", "teacher_gnn", "negatives", "results", "study", "variant", "varied", "run_dir", "force", "plugins", "bank",
    "builder", "gnn", "teacher", "student", "data", "trainer", "teacher_trainer", "objective",
}  # fmt: skip
TEACHER_KEYS: dict[str, Any] = {"seed": 0, "checkpoint": None, "train_fraction": 1.0}
OWN_OPTIONS: dict[str, Any] = {
    "seed": int, "negatives": int, "results": str, "study": str, "variant": str | None, "run_dir": str | None,
    "force": bool, "plugins": list[str],
    "teacher.seed": int, "teacher.checkpoint": str | None, "teacher.train_fraction": float,
}  # fmt: skip
"""The options outside all constructors, by path."""
GRAPH_KEYS = ("builder", "gnn", "teacher_gnn")
SHARED: Literal["shared"] = "shared"
LONGEST_NAME = 200  # file systems take 255 bytes
REGISTRIES: dict[str, Registry[Any]] = {
    "data": DATASETS, "student": MODELS, "teacher": MODELS, "builder": BUILDERS, "gnn": GNNS, "teacher_gnn": GNNS,
}  # fmt: skip
STAND_INS = {"labels": torch.arange(100), "num_classes": 100, "student_dim": 256, "teacher_dim": 256}
"""Run-time arguments to try an objective's options out with, before there are networks and data."""


@dataclass(frozen=True)
class Part:
    """One named part of a config, checked against its constructor but not built yet."""

    registry: Registry[Any]
    name: str
    bound: Bound

    def build(self, **runtime: Any) -> Any:
        """Builds it; `runtime` are the arguments that no config gives."""
        return self.registry.build(self.name, **self.bound.all, **runtime)

    @property
    def identity(self) -> dict[str, Any]:
        """What of it counts in a run's identity: its name and the options that differ from the defaults."""
        factory = self.registry.factory(self.name)
        # What files hold counts, not where they are.
        content = factory.fingerprint(self.bound.all) if self.registry is DATASETS else {}
        return {"name": self.name, **_counted(factory, self.bound.given), **({"content": content} if content else {})}

    @property
    def document(self) -> dict[str, Any]:
        """Its node in a resolved config."""
        return {"name": self.name, **self.bound.all}


@dataclass(frozen=True)
class Term:
    """One term of an objective, with the graph parts it uses."""

    part: Part
    weight: Weight
    graph_dim: int | None = None
    builder: Part | None = None
    gnn: Part | None = None
    teacher_gnn: Part | Literal["shared"] | None = None
    reads: frozenset[str] = frozenset()
    """Which of the top-level graph nodes it took."""

    @property
    def identity(self) -> dict[str, Any]:
        """What of it counts in a run's identity."""
        document: dict[str, Any] = {"objective": self.part.identity, "weight": self.weight}
        if self.graph_dim is not None:
            assert self.builder is not None
            assert self.gnn is not None
            document["builder"] = self.builder.identity
            document["gnn"] = self.gnn.identity
            document["teacher_gnn"] = (
                self.teacher_gnn.identity if isinstance(self.teacher_gnn, Part) else self.teacher_gnn
            )
        return document


@dataclass(frozen=True)
class TeacherPlan:
    """A teacher, checked: trained on `data` by `trainer`, or read from a file."""

    model: Part
    data: Part
    trainer: Bound
    seed: int
    checkpoint: Path | None

    @functools.cached_property
    def identity(self) -> str:
        """Hash of how it is trained, or of the file's content."""
        if self.checkpoint is not None:
            return hashlib.sha256(self.checkpoint.read_bytes()).hexdigest()
        return identity(
            {
                "teacher": self.model.identity,
                "data": self.data.identity,
                "trainer": _counted(Trainer, self.trainer.given),
            }
        )

    @property
    def folder(self) -> Path:
        """Where it is kept, below the results folder."""
        return Path("teachers") / self.model.name / short(self.identity) / f"seed-{self.seed}"

    def build(self, dataset: Dataset) -> Network:
        """The untrained network."""
        return _network(self.model, dataset, self.seed)


@dataclass(frozen=True)
class Plan:
    """A whole run, checked: nothing in it can be mistyped any more."""

    config: dict[str, Any]
    student: Part
    teacher: TeacherPlan | None
    data: Part
    trainer: Bound
    terms: dict[str, Term]

    @property
    def seed(self) -> int:
        """The seed of every random stream."""
        return int(self.config["seed"])

    @property
    def results(self) -> Path:
        """The results folder."""
        return Path(self.config["results"])

    @property
    def unused_graph_nodes(self) -> list[str]:
        """Which of the top-level nodes builder, gnn and teacher_gnn no term takes."""
        read = frozenset[str]().union(*(term.reads for term in self.terms.values()))
        return [node for node in GRAPH_KEYS if node not in read]

    @property
    def identity(self) -> str:
        """See `graphkd.identity` and the README: seed, paths, devices and unused nodes do not count."""
        teacher = None if self.teacher is None else {"is": self.teacher.identity, "seed": self.teacher.seed}
        return identity(
            {
                "student": self.student.identity,
                "teacher": teacher,
                "data": self.data.identity,
                "trainer": _counted(Trainer, self.trainer.given),
                "objective": {name: term.identity for name, term in self.terms.items()},
            }
        )

    @property
    def variant(self) -> str:
        """The variant's name: the config's, or one made of the objective's terms and its graph parts."""
        if self.config["variant"] is not None:
            return str(self.config["variant"])
        graph = next((term for term in self.terms.values() if term.graph_dim is not None), None)
        parts = ["+".join(self.terms)]
        if graph is not None and graph.builder is not None and graph.gnn is not None:
            parts += [graph.builder.name, graph.gnn.name]
        return "-".join(parts)[:LONGEST_NAME]

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        if self.config["run_dir"] is not None:
            return Path(self.config["run_dir"])
        study = str(self.config["study"])
        return self.results / study / self.variant / short(self.identity) / f"seed-{self.seed}"

    def build_data(self) -> Dataset:
        """The data set."""
        dataset: Dataset = self.data.build()
        return dataset

    def build_trainer(self) -> Trainer:
        """The student's trainer."""
        return Trainer(**self.trainer.all)

    def build_student(self, dataset: Dataset) -> Network:
        """The student, initialised from the seed."""
        return _network(self.student, dataset, self.seed)

    def build_objective(self, dataset: Dataset, student: Network, teacher: Network | None) -> WeightedSum:
        """The objective with its graph parts, each initialised from a stream of its own."""
        runtime: dict[str, Any] = {"labels": dataset.train_labels, "num_classes": dataset.num_classes}
        for side, network in (("student", student), ("teacher", teacher)):
            if network is not None:
                shapes = output_shapes(network, dataset.in_channels, dataset.image_size)
                runtime |= {f"{side}_dim": shapes.embedding, f"{side}_shapes": shapes.features}
        return WeightedSum(
            {name: (_build_term(name, term, self.seed, runtime), term.weight) for name, term in self.terms.items()}
        )


def plan(config: Mapping[str, Any]) -> Plan:
    """Checks a resolved config against the constructors of all its parts, those that the objective leaves unused too.

    Args:
        config: What Hydra composed, as plain containers.

    Raises:
        UserError: Anything in it is unknown, missing, of a wrong type, used by nobody, or out of its range where that
            can be told without networks and data; one line names it.
    """
    check_keys(config)
    run_dir = config.get("run_dir")
    inside = run_dir is not None and Path.cwd().is_relative_to(Path(run_dir).resolve())
    check(not inside, f"run_dir is {brief(run_dir)}, but must be a folder of its own, not one that you are in")
    import_plugins(_strings(config, "plugins"))
    _part(BUILDERS, config["builder"], "builder")
    _part(GNNS, config["gnn"], "gnn")
    _teacher_gnn(config["teacher_gnn"], "teacher_gnn")
    trainer = _trainer(config, "trainer")  # first, for the teacher's takes values over from it
    teacher = plan_teacher(config)
    terms = _terms(config)
    needs_teacher = any(OBJECTIVES.factory(term.part.name).needs_teacher for term in terms.values())
    return Plan(
        config={"run_dir": None, "variant": None, "varied": {}, **config},
        student=_part(MODELS, config["student"], "student"),
        teacher=teacher if needs_teacher else None,
        data=_part(DATASETS, config["data"], "data"),
        trainer=trainer,
        terms=terms,
    )


def plan_teacher(config: Mapping[str, Any]) -> TeacherPlan:
    """Checks the teacher's nodes of a resolved config (`teacher`, `teacher_trainer`, `data`).

    Raises:
        UserError: As in `plan`; also where `teacher.checkpoint` is no file.
    """
    check_keys(config)
    import_plugins(_strings(config, "plugins"))
    node = _named(config["teacher"], "teacher")
    own = {key: node.pop(key, default) for key, default in TEACHER_KEYS.items()}
    checkpoint = convert(own["checkpoint"], str | None, "teacher.checkpoint")
    if checkpoint is not None:
        check(Path(checkpoint).is_file(), f"teacher.checkpoint: there is no file {checkpoint}")
    _named(config["student"], "student")
    seed: int = convert(own["seed"], int, "teacher.seed")
    fraction: float = convert(own["train_fraction"], float, "teacher.train_fraction")
    _check_seed(seed, "teacher.seed")
    check(0 < fraction <= 1, f"teacher.train_fraction is {fraction}, but must be above 0 and at most 1")
    return TeacherPlan(
        model=_part(MODELS, node, "teacher"),
        data=_teacher_data(config, fraction),
        trainer=_trainer(config, "teacher_trainer"),
        seed=seed,
        checkpoint=None if checkpoint is None else Path(checkpoint),
    )


def registry_at(node: str) -> Registry[Any] | None:
    """Return where the part is looked up that a config's node names, such as `data` or `objective.hkd.gnn`."""
    path = node.split(".")
    if path[0] == "objective":
        return OBJECTIVES if len(path) == 2 else REGISTRIES.get(path[-1])
    return REGISTRIES.get(node)


def annotations_at(path: str) -> list[Any]:
    """Return what the option at a path of the config may be: an annotation for each part that could stand there."""
    if path in OWN_OPTIONS:
        return [OWN_OPTIONS[path]]
    node, _, name = path.rpartition(".")
    registry = registry_at(node)
    known = options_of(Trainer) if node in ("trainer", "teacher_trainer") else {}
    held = registry.holders(name) if registry else {name: known[name]} if name in known else {}
    return [option.annotation for option in held.values()]


def build_student(config: Mapping[str, Any]) -> tuple[Network, Dataset]:
    """The untrained student of a resolved config and the data it runs on, whatever else is in the config.

    Raises:
        UserError: One of them is not well described.
    """
    check_keys(config)
    import_plugins(_strings(config, "plugins"))
    dataset: Dataset = _part(DATASETS, config["data"], "data").build()
    return _network(_part(MODELS, config["student"], "student"), dataset, config["seed"]), dataset


def check_keys(config: Mapping[str, Any]) -> None:
    """Checks the names and the plain values of a config's top level.

    Raises:
        UserError: A key is unknown or missing, or a value of a wrong type.
    """
    for key in config:
        hint = did_you_mean(str(key), KEYS)
        check(key in KEYS, f"the config has no node '{key}'{hint} (its nodes: {choices(KEYS)})")
    for key in sorted(KEYS - {"varied", "run_dir", "variant", *config}):
        raise UserError(f"the config lacks the node '{key}'")
    for key, kind in {"seed": int, "results": str, "study": str, "force": bool}.items():
        convert(config[key], kind, key)
    for key in ("variant", "run_dir"):
        convert(config.get(key), str | None, key)
    for key in ("study", "variant"):
        if config.get(key) is not None:
            _check_plain(config[key], key)
    _check_seed(config["seed"], "seed")
    results, run_dir = config["results"], config.get("run_dir")
    check(_is_path(results), f"results is {brief(results)}, but must be the path of a folder")
    check(run_dir is None or _is_path(run_dir), f"run_dir is {brief(run_dir)}, but must be the path of a folder")
    _check_finite(config)


def _check_plain(name: str, what: str) -> None:
    plain = name not in ("", ".", "..") and name.isprintable() and not set(name) & set("/\\")
    check(plain, f"{what} is {brief(name)}, but must be a plain name: it becomes a folder of the results")
    check(len(name.encode()) <= LONGEST_NAME, f"{what} is longer than {LONGEST_NAME} bytes: {name[:40]!r}...")


def _check_seed(seed: int, what: str) -> None:
    check(seed >= 0, f"{what} is {seed}, but must be at least 0")
    check(seed < 2**63, f"{what} is {brief(seed)}, but must be below 2**63")


def _is_path(text: str) -> bool:
    return text != "" and text.isprintable()


def _check_finite(value: Any, where: str = "") -> None:
    """No option takes infinity or NaN, and an identity (JSON) cannot hold them."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_finite(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for item in value:
            _check_finite(item, where)
    else:
        check(not isinstance(value, float) or math.isfinite(value), f"{where} is {value}, but must be finite")


def _counted(factory: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that count in an identity: not how or where something is computed."""
    ignored: frozenset[str] = getattr(factory, "NOT_IDENTITY", frozenset())
    counted: dict[str, Any] = {}
    for name in given.keys() - ignored:
        value = given[name]
        if not dataclasses.is_dataclass(value):
            counted[name] = value
        elif group := _counted_group(value):  # a group none of whose options counts is like one left out
            counted[name] = group
    return counted


def _counted_group(group: Any) -> dict[str, Any]:
    known = options_of(type(group))
    return _counted(type(group), bind(vars(group), known, "").given)


def _network(model: Part, dataset: Dataset, seed: int) -> Network:
    with initialising(seed, "student_init"):
        network: Network = model.build(num_classes=dataset.num_classes, in_channels=dataset.in_channels)
    return network


def _named(node: Any, where: str) -> dict[str, Any]:
    """A part's node as a mapping with a name; a bare string stands for its name."""
    if isinstance(node, str):
        return {"name": node}
    check(isinstance(node, Mapping), f"{where} is {brief(node)}, but must be a name or a mapping with a name")
    check(isinstance(node.get("name"), str), f"{where} needs a name, for example {where}.name=...")
    return dict(node)


def _build_term(name: str, term: Term, seed: int, runtime: Mapping[str, Any]) -> Any:
    """A term's objective with its graph parts; of `runtime` it gets what its constructor names."""
    wanted = options_of(OBJECTIVES.factory(term.part.name))
    given = {**runtime, **_build_graph_parts(name, term, seed)}
    with initialising(seed, "objective_init", name):
        return term.part.build(**{key: value for key, value in given.items() if key in wanted})


def _build_graph_parts(name: str, term: Term, seed: int) -> dict[str, Any]:
    if term.graph_dim is None or term.builder is None or term.gnn is None:
        return {}
    dims = {"in_dim": term.graph_dim, "out_dim": term.graph_dim}
    with initialising(seed, "objective_init", name, "student_gnn"):
        student_gnn = term.gnn.build(**dims)
    teacher_gnn = student_gnn
    if term.teacher_gnn != SHARED:
        like = term.teacher_gnn if isinstance(term.teacher_gnn, Part) else term.gnn
        with initialising(seed, "objective_init", name, "teacher_gnn"):
            teacher_gnn = like.build(**dims)
    return {"builder": term.builder.build(), "student_gnn": student_gnn, "teacher_gnn": teacher_gnn}


def _try_out(name: str, term: Term) -> None:
    """Builds a term on stand-ins for networks and data, so that a value out of range is found before anything starts.

    An objective on feature maps waits for the networks, whose shapes decide what it can take.
    """
    if not {"student_shapes", "teacher_shapes"} & options_of(OBJECTIVES.factory(term.part.name)).keys():
        _build_term(name, term, 0, STAND_INS)


def _part(registry: Registry[Any], node: Any, where: str) -> Part:
    options = _named(node, where)
    name = options.pop("name")
    supplied = sorted(registry.runtime & set(options))
    check(not supplied, f"{where}: '{', '.join(supplied)}' is no option, graphkd supplies it")
    return Part(registry, name, registry.bind(name, options))


def _trainer(config: Mapping[str, Any], key: str) -> Bound:
    check(isinstance(config[key], Mapping), f"{key} is {brief(config[key])}, but must be a mapping of options")
    bound = bind(config[key], options_of(Trainer), key)
    checked_trainer(bound.all, key)
    return bound


def _teacher_data(config: Mapping[str, Any], fraction: float) -> Part:
    data = _part(DATASETS, config["data"], "data")
    if "train_fraction" not in data.bound.all:
        check(fraction == 1, f"teacher.train_fraction is {fraction}, but data set '{data.name}' has no such option")
        return data
    return _part(DATASETS, {**data.document, "train_fraction": fraction}, "data")


def _terms(config: Mapping[str, Any]) -> dict[str, Term]:
    objective = config["objective"]
    is_composition = isinstance(objective, Mapping) and len(objective) > 0
    check(is_composition, f"objective is {brief(objective)}, but must be a mapping from a name to a term")
    for name in objective:
        _check_plain(str(name), "the name of a term in objective")
    terms = {str(name): _term(config, str(name), node) for name, node in objective.items()}
    check_terms({name: (OBJECTIVES.factory(term.part.name), term.weight) for name, term in terms.items()})
    for name, term in terms.items():
        _try_out(name, term)
    return terms


def _term(config: Mapping[str, Any], name: str, node: Any) -> Term:
    where = f"objective.{name}"
    options = _named(node, where)
    weight = _weight(options.pop("weight", 1.0), f"{where}.weight")
    factory = OBJECTIVES.factory(options["name"])
    takes_graph = "builder" in options_of(factory)
    own = {key: options.pop(key, None) for key in GRAPH_KEYS} if takes_graph else {}
    part = _part(OBJECTIVES, options, where)
    graph_dim = factory.graph_dim(part.bound.all)
    if graph_dim is None:
        for key, value in own.items():
            check(value is None, f"{where}.{key} is given, but with these options '{part.name}' uses no graph")
        return Term(part, weight)
    check(graph_dim >= 1, f"{where}: dim is {graph_dim}, but must be at least 1, the width of its graphs' embeddings")
    nodes = {key: config[key] if value is None else value for key, value in own.items()}
    return Term(
        part, weight, graph_dim,
        builder=_part(BUILDERS, nodes["builder"], f"{where}.builder"),
        gnn=_part(GNNS, nodes["gnn"], f"{where}.gnn"),
        teacher_gnn=_teacher_gnn(nodes["teacher_gnn"], f"{where}.teacher_gnn"),
        reads=frozenset(key for key, value in own.items() if value is None),
    )  # fmt: skip


def _teacher_gnn(node: Any, where: str) -> Part | Literal["shared"] | None:
    if node is None:
        return None
    return SHARED if node == SHARED else _part(GNNS, node, where)


def _weight(value: Any, where: str) -> Weight:
    if isinstance(value, Mapping):
        return {str(part): convert(weight, float, f"{where}.{part}") for part, weight in value.items()}
    weight: float = convert(value, float, where)
    return weight


def _strings(config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values: tuple[str, ...] = convert(config[key], list[str], key)
    return values
