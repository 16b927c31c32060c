"""From a resolved config to objects: the only module that knows every registry."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from graphkd.batch import NetworkOutput
from graphkd.binding import Bound, bind, convert, options_of
from graphkd.builder import BUILDERS
from graphkd.data import DATASETS, Dataset, DatasetInfo
from graphkd.engine.checkpoint import content_hash
from graphkd.engine.seeding import initialising
from graphkd.engine.trainer import Trainer, checked_trainer
from graphkd.errors import UserError, brief, check, choices, did_you_mean, one_line
from graphkd.files import real_folder
from graphkd.gnn import GNNS
from graphkd.identity import identity, short
from graphkd.model import MODELS, Network, OwnInput, adapt_input
from graphkd.model.base import shapes_of, trial_output
from graphkd.objective import OBJECTIVES, Objective, WeightedSum
from graphkd.objective.weighted_sum import Weight, check_terms
from graphkd.registry import Registry, import_plugins
from graphkd.run_folder import weights_file

KEYS = {
    "seed", "teacher_gnn", "negatives", "results", "study", "variant", "varied", "run_dir", "force", "plugins", "bank",
    "builder", "gnn", "teacher", "student", "data", "trainer", "teacher_trainer", "objective",
}  # fmt: skip
TEACHER_KEYS: dict[str, Any] = {"seed": 0, "checkpoint": None, "train_fraction": 1.0, "input": None}
OWN_OPTIONS: dict[str, Any] = {
    "seed": int, "negatives": int, "results": str, "study": str, "variant": str | None, "run_dir": str | None,
    "force": bool, "plugins": list[str],
    "teacher.seed": int, "teacher.checkpoint": str | None, "teacher.train_fraction": float,
    "student.checkpoint": str | None, "teacher.input.size": int | None,
    "teacher.input.mean": tuple[float, ...] | None, "teacher.input.std": tuple[float, ...] | None,
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
        """Build it; `runtime` are the arguments that no config gives."""
        return self.registry.build(self.name, **self.bound.all, **runtime)

    @property
    def identity(self) -> dict[str, Any]:
        """What of it counts in a run's identity: its name and the options that differ from the defaults."""
        factory = self.registry.factory(self.name)
        # What files hold counts, not where they are.
        content = factory.fingerprint(self.bound.all) if self.registry is DATASETS else {}
        revision = getattr(factory, "revision", 1)
        return {
            "name": self.name,
            **_counted(factory, self.bound.given),
            **({"content": content} if content else {}),
            **({"revision": revision} if revision > 1 else {}),
        }

    @property
    def module(self) -> str:
        """The module that it is from."""
        return str(self.registry.factory(self.name).__module__)

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
    """Which of the top-level nodes for graphs and contrast it took."""

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
    input: OwnInput | None = None

    @functools.cached_property
    def identity(self) -> str:
        """Hash of the network and of how it is trained, or of the file's content in place of that."""
        own = {} if self.input is None else {"input": vars(self.input)}
        if self.checkpoint is not None:
            return identity({"teacher": self.model.identity, "checkpoint": content_hash(self.checkpoint), **own})
        trainer = _counted(Trainer, self.trainer.given)
        return identity({"teacher": self.model.identity, "data": self.data.identity, "trainer": trainer, **own})

    @property
    def folder(self) -> Path:
        """Where it is kept, below the results folder."""
        return Path("teachers") / self.model.name / short(self.identity) / f"seed-{self.seed}"

    @property
    def plugins(self) -> dict[str, str]:
        """See `source_hashes`."""
        return source_hashes([self.model, self.data])

    def build(self, data: Dataset | DatasetInfo) -> Network:
        """Return the untrained network."""
        network = build_network(self.model, data, self.seed)
        if self.input is not None:
            try:
                adapt_input(network, self.input, data.mean, data.std)
            except UserError as error:
                raise UserError(f"teacher.{error}") from None
        return network


@dataclass(frozen=True)
class Plan:
    """A whole run, checked: nothing in it can be mistyped any more."""

    config: dict[str, Any]
    student: Part
    teacher: TeacherPlan | None
    data: Part
    trainer: Bound
    terms: dict[str, Term]
    start: Path | None = None
    """The weights that the student starts from, in place of random ones."""

    @property
    def seed(self) -> int:
        """The seed of every random stream."""
        return int(self.config["seed"])

    @property
    def results(self) -> Path:
        """The results folder."""
        return Path(self.config["results"])

    @property
    def unused_nodes(self) -> list[str]:
        """Which of the top-level nodes for graphs and contrast (`builder`, `negatives`, ...) no term takes."""
        read = frozenset[str]().union(*(term.reads for term in self.terms.values()))
        return [node for node in (*GRAPH_KEYS, *Objective.SHARED) if node not in read]

    @functools.cached_property
    def identity(self) -> str:
        """See `graphkd.identity` and the README: seed, paths, devices and unused nodes do not count."""
        teacher = None
        if self.teacher is not None:
            seed = self.teacher.seed if self.teacher.checkpoint is None else 0  # which does nothing to a file's weights
            teacher = {"is": self.teacher.identity, "seed": seed}
        start = {} if self.start is None else {"checkpoint": content_hash(self.start)}
        return identity(
            {
                "student": {**self.student.identity, **start},
                "teacher": teacher,
                "data": self.data.identity,
                "trainer": _counted(Trainer, self.trainer.given),
                "objective": {name: term.identity for name, term in self.terms.items()},
            }
        )

    @property
    def plugins(self) -> dict[str, str]:
        """See `source_hashes`."""
        graphs = [part for term in self.terms.values() for part in (term.builder, term.gnn, term.teacher_gnn)]
        parts = [self.student, self.data, *(term.part for term in self.terms.values()), *graphs]
        teacher = {} if self.teacher is None else self.teacher.plugins
        return {**source_hashes([part for part in parts if isinstance(part, Part)]), **teacher}

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
        """Return the data set."""
        dataset: Dataset = self.data.build()
        return dataset

    def build_trainer(self) -> Trainer:
        """Return the student's trainer."""
        return Trainer(**self.trainer.all)

    def build_student(self, dataset: Dataset) -> Network:
        """Return the student, initialised from the seed."""
        return build_network(self.student, dataset, self.seed)

    def build_objective(self, dataset: Dataset, student: Network, teacher: Network | None) -> WeightedSum:
        """Return the objective with its graph parts, each initialised from a stream of its own."""
        runtime: dict[str, Any] = {"labels": dataset.train_labels, "num_classes": dataset.num_classes}
        networks = {"student": student} if teacher is None else {"student": student, "teacher": teacher}
        outputs = {
            side: trial_output(network, dataset.in_channels, dataset.image_size) for side, network in networks.items()
        }
        for side, output in outputs.items():
            shapes = shapes_of(output)
            runtime |= {f"{side}_dim": shapes.embedding, f"{side}_shapes": shapes.features}
        for name, term in self.terms.items():
            _check_shown(f"objective.{name}", OBJECTIVES.factory(term.part.name), networks, outputs)
        return WeightedSum(
            {name: (_build_term(name, term, self.seed, runtime), term.weight) for name, term in self.terms.items()}
        )


def plan(config: Mapping[str, Any]) -> Plan:
    """Check a resolved config against the constructors of all its parts, those that the objective leaves unused too.

    Args:
        config: What Hydra composed, as plain containers.

    Raises:
        UserError: Anything in it is unknown, missing, of a wrong type, used by nobody, or out of its range where that
            can be told without networks and data; one line names it.
    """
    check_keys(config)
    run_dir = config.get("run_dir")
    inside = run_dir is not None and Path.cwd().is_relative_to(real_folder(Path(run_dir)).resolve())
    check(not inside, f"run_dir is {brief(run_dir)}, but must be a folder of its own, not one that you are in")
    import_plugins(_strings(config, "plugins"))
    _part(BUILDERS, config["builder"], "builder")
    _part(GNNS, config["gnn"], "gnn")
    _teacher_gnn(config["teacher_gnn"], "teacher_gnn")
    trainer = _trainer(config, "trainer")  # first, for the teacher's takes values over from it
    teacher = plan_teacher(config)
    terms = _terms(config)
    student, start = _student(config)
    needs_teacher = any(OBJECTIVES.factory(term.part.name).needs_teacher for term in terms.values())
    return Plan(
        config={"run_dir": None, "variant": None, "varied": {}, **config},
        student=student,
        teacher=teacher if needs_teacher else None,
        data=_part(DATASETS, config["data"], "data"),
        trainer=trainer,
        terms=terms,
        start=start,
    )


def plan_teacher(config: Mapping[str, Any]) -> TeacherPlan:
    """Check the teacher's nodes of a resolved config (`teacher`, `teacher_trainer`, `data`).

    Raises:
        UserError: As in `plan`; also where `teacher.checkpoint` is neither a file nor a finished run's folder.
    """
    check_keys(config)
    import_plugins(_strings(config, "plugins"))
    node = _named(config["teacher"], "teacher")
    own = {key: node.pop(key, default) for key, default in TEACHER_KEYS.items()}
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
        checkpoint=_checkpoint(own["checkpoint"], "teacher.checkpoint"),
        input=convert(own["input"], OwnInput | None, "teacher.input"),
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


def plan_student(config: Mapping[str, Any]) -> tuple[Part, Part]:
    """Check the student of a resolved config and the data it runs on, whatever else is in the config.

    Raises:
        UserError: One of them is not well described.
    """
    check_keys(config)
    import_plugins(_strings(config, "plugins"))
    return _student(config)[0], _part(DATASETS, config["data"], "data")


def absolute_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved config, of a run or a transfer, whose data and weights are found from any folder."""
    resolved = dict(config)
    for side in ("student", "teacher"):
        if isinstance(config.get(side), Mapping) and config[side].get("checkpoint"):
            resolved[side] = {**config[side], "checkpoint": _absolute(config[side]["checkpoint"])}
    data = _named(config["data"], "data")
    paths = DATASETS.factory(data["name"]).PATHS
    resolved["data"] = {key: _absolute(value) if key in paths else value for key, value in data.items()}
    return resolved


def _absolute(value: Any) -> Any:
    """Return the same path, pattern or list of those, from the root; what is no text stays."""
    if isinstance(value, (list, tuple)):
        return [_absolute(item) for item in value]
    if not isinstance(value, str):
        return value
    path = os.path.abspath(os.path.expanduser(value))
    return path if os.path.exists(path) else os.path.join(glob.escape(os.getcwd()), os.path.expanduser(value))


def source_hashes(parts: Iterable[Part]) -> dict[str, str]:
    """Return the SHA-256 of the source file of each module from outside graphkd that parts are from, by its name."""
    hashes: dict[str, str] = {}
    for module in sorted({part.module for part in parts}):
        file = Path(getattr(sys.modules.get(module), "__file__", None) or "")
        if module.partition(".")[0] != "graphkd" and file.is_file():
            hashes[module] = content_hash(file)
    return hashes


def check_keys(config: Mapping[str, Any]) -> None:
    """Check the names and the plain values of a config's top level.

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
    """Return the options that count in an identity: not how or where something is computed."""
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


def build_network(model: Part, data: Dataset | DatasetInfo, seed: int) -> Network:
    """Build a network for the classes and channels of some data, initialised from the seed."""
    with _of_bearable_size(f"model '{model.name}'"), initialising(seed, "student_init"):
        network: Network = model.build(num_classes=data.num_classes, in_channels=data.in_channels)
    return network


def _student(config: Mapping[str, Any]) -> tuple[Part, Path | None]:
    """Return the student, and the weights that it starts from."""
    node = _named(config["student"], "student")
    start = _checkpoint(node.pop("checkpoint", None), "student.checkpoint")
    return _part(MODELS, node, "student"), start


def _checkpoint(value: Any, where: str) -> Path | None:
    path: str | None = convert(value, str | None, where)
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


def _build_term(name: str, term: Term, seed: int, runtime: Mapping[str, Any]) -> Any:
    """Return a term's objective with its graph parts; of `runtime` it gets what its constructor names."""
    wanted = options_of(OBJECTIVES.factory(term.part.name))
    with _of_bearable_size(f"objective.{name}"):
        given = {**runtime, **_build_graph_parts(name, term, seed)}
        with initialising(seed, "objective_init", name):
            return term.part.build(**{key: value for key, value in given.items() if key in wanted})


def _check_shown(
    term: str, kind: type[Objective], networks: Mapping[str, Network], outputs: Mapping[str, NetworkOutput]
) -> None:
    """Check that the networks show the maps that an objective looks at."""
    for side, output in outputs.items():
        count, fewest = len(output.features), kind.fewest_maps
        if count < fewest:
            others = [len(other.features) for name, other in outputs.items() if name != side]
            example = _evenly(networks[side].token_blocks, max([fewest, *others] if any(others) else [4]))
            hint = f"; name some: {side}.features=[{','.join(example)}]" if example else ""
            maps = f"{fewest} feature map{'s' if fewest > 1 else ''}"
            raise UserError(f"{term}: '{kind.name}' needs {maps} or more, but the {side}'s network shows {count}{hint}")
        if side in kind.needs_preactivations and output.preactivations is None:
            raise UserError(
                f"{term}: '{kind.name}' needs pre-activations, but the {side}'s network does not show them (one of "
                f"torchvision or timm does for maps that end in an activation module: {side}.features=[...])"
            )


def _evenly(names: Sequence[str], count: int) -> list[str]:
    """So many of the names, the last one among them."""
    count = min(count, len(names))
    return [names[(number + 1) * len(names) // count - 1] for number in range(count)]


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
    """Build a term on stand-ins for networks and data, so that a value out of range is found before anything starts.

    An objective on feature maps waits for the networks, whose shapes decide what it can take.
    """
    if not {"student_shapes", "teacher_shapes"} & options_of(OBJECTIVES.factory(term.part.name)).keys():
        _build_term(name, term, 0, STAND_INS)


@contextlib.contextmanager
def _of_bearable_size(where: str) -> Iterator[None]:
    """Turn what torch and Python say of sizes beyond all memory into the user's mistake."""
    try:
        yield
    except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
        if isinstance(error, (RuntimeError, TypeError)) and not re.search("overflow|allocate|memory", str(error), re.I):
            raise
        raise UserError(f"{where}: an option is too large: {one_line(error)}") from error


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
    known = options_of(factory)
    takes_graph = "builder" in known
    shared = {key for key in Objective.SHARED if key in known and key in options and options[key] == config[key]}
    own = {key: options.pop(key, None) for key in GRAPH_KEYS} if takes_graph else {}
    part = _part(OBJECTIVES, options, where)
    graph_dim = factory.graph_dim(part.bound.all)
    if graph_dim is None:
        for key, value in own.items():
            check(value is None, f"{where}.{key} is given, but with these options '{part.name}' uses no graph")
        return Term(part, weight, reads=frozenset(shared))
    check(graph_dim >= 1, f"{where}: dim is {graph_dim}, but must be at least 1, the width of its graphs' embeddings")
    nodes = {key: config[key] if value is None else value for key, value in own.items()}
    return Term(
        part, weight, graph_dim,
        builder=_part(BUILDERS, nodes["builder"], f"{where}.builder"),
        gnn=_part(GNNS, nodes["gnn"], f"{where}.gnn"),
        teacher_gnn=_teacher_gnn(nodes["teacher_gnn"], f"{where}.teacher_gnn"),
        reads=frozenset({*shared, *(key for key, value in own.items() if value is None)}),
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
