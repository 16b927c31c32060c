"""Specification of a run: its network, data and training, identity and folder."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from graphkd.data import Dataset, DatasetInfo
from graphkd.engine.trainer import Trainer
from graphkd.engine.weights import content_hash
from graphkd.errors import UserError
from graphkd.identity import identity, short
from graphkd.model import Network, OwnInput, adapt_input
from graphkd.objective import OBJECTIVES, Objective, WeightedSum
from graphkd.objective.base import Setting
from graphkd.run.build import build_network, build_objective
from graphkd.run.part import Part, Term, counted_options, source_hashes

GRAPH_KEYS = ("builder", "gnn", "teacher_gnn")
LONGEST_NAME = 200  # file systems take 255 bytes
TEACHERS = "teachers"
"""Folder of all teachers, in the folder of results."""


def run_place(group: str | Path, name: str, identity: str, seed: int) -> Path:
    """Return the folder of a run in the folder of its group: that of its study, or of all teachers."""
    return Path(group) / name / short(identity) / f"seed-{seed}"


@dataclass(frozen=True)
class Built:
    """A run's networks and objective, not trained yet."""

    network: Network
    objective: WeightedSum
    teacher: Network | None = None


@dataclass(frozen=True, kw_only=True)
class RunSpec(ABC):
    """Specification of a run, fully checked.

    Attributes:
        config: The resolved config that describes it.
        data: The data set.
        trainer: The options of its training.
        seed: The seed of every random stream.
        checkpoint: A file of weights: a student starts from them, a teacher uses them instead of training.
        teacher: Its teacher, if any.
        logger: A tool that its metrics are sent to, if any.
    """

    kind: ClassVar[Literal["student", "teacher", "probe"]]
    trainer_node: ClassVar[str] = "trainer"
    """Name of the config node with the trainer's options, for messages."""
    predicts: ClassVar[bool] = True
    """Whether its folder keeps everything needed to predict, and the results of every epoch."""

    config: dict[str, Any]
    data: Part
    trainer: Trainer
    seed: int
    checkpoint: Path | None = None
    teacher: TeacherSpec | None = None
    logger: Part | None = None

    @property
    @abstractmethod
    def variant(self) -> str:
        """Name of the run within its study."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """See `graphkd.identity` and docs/running.md: seed, paths, devices and unused nodes do not count."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Folder of the run."""

    @property
    @abstractmethod
    def plugins(self) -> Mapping[str, str]:
        """See `source_hashes`."""

    @abstractmethod
    def build(self, dataset: Dataset, teacher: Network | None = None) -> Built:
        """Build the networks, from their seeds, and the objective; write nothing.

        Args:
            dataset: The data.
            teacher: The teacher's network, if already built.

        Raises:
            UserError: Parts do not fit together, or an option does not fit the data.
        """

    @property
    def document(self) -> Mapping[str, Any]:
        """Config that the run's folder keeps."""
        return self.config

    def notes(self, dataset: Dataset, built: Built) -> Sequence[str]:
        """Return notes for the user before the training, a line each."""
        return ()

    def problem(self, folder: Path) -> str | None:
        """Return why the finished run in a folder cannot be reused, or None."""
        return None

    def training_data(self, dataset: Dataset, built: Built) -> Dataset:
        """Return the data as the network sees them."""
        return dataset


@dataclass(frozen=True, kw_only=True)
class TeacherSpec(RunSpec):
    """Specification of a teacher, trained by cross-entropy or read from a file.

    Attributes:
        model: Its network.
        input: Its images, if they differ from the student's.
    """

    kind = "teacher"
    trainer_node = "teacher_trainer"

    model: Part
    input: OwnInput | None = None

    @property
    def variant(self) -> str:
        """Name of the network."""
        return self.model.name

    @functools.cached_property
    def identity(self) -> str:
        """Hash of the network and its training, or of the content of its file of weights."""
        own = {} if self.input is None else {"input": vars(self.input)}
        if self.checkpoint is not None:
            return identity({"teacher": self.model.identity, "checkpoint": content_hash(self.checkpoint), **own})
        trainer = counted_options(self.trainer)
        return identity({"teacher": self.model.identity, "data": self.data.identity, "trainer": trainer, **own})

    @property
    def folder(self) -> Path:
        """Folder of the teacher, the same for every study."""
        return Path(self.config["results"]) / self.place_of(self.identity)

    def place_of(self, identity: str) -> Path:
        """Return the folder of a teacher with this network, seed and identity, below a results folder."""
        return run_place(TEACHERS, self.model.name, identity, self.seed)

    @property
    def plugins(self) -> dict[str, str]:
        """See `source_hashes`."""
        return source_hashes([self.model, self.data])

    def network(self, data: Dataset | DatasetInfo) -> Network:
        """Return the untrained network."""
        network = build_network(self.model, data, self.seed)
        if self.input is not None:
            try:
                adapt_input(network, self.input, data.mean, data.std)
            except UserError as error:
                raise UserError(f"teacher.{error}") from None
        return network

    def build(self, dataset: Dataset, teacher: Network | None = None) -> Built:
        """See `RunSpec`."""
        network, objective = self.network(dataset), cross_entropy()
        self.trainer.check_batches(network, dataset, objective, where=self.trainer_node)
        return Built(network, objective)


@dataclass(frozen=True, kw_only=True)
class StudentSpec(RunSpec):
    """Specification of a student, distilled from a teacher or trained on labels alone.

    Attributes:
        model: Its network.
        terms: Its objective's terms by name.
        drop_head: Whether the last layer is not taken from `checkpoint`, for weights of other classes.
    """

    kind = "student"

    model: Part
    terms: dict[str, Term]
    drop_head: bool = False

    @property
    def unused_nodes(self) -> list[str]:
        """The top-level nodes for graphs and contrast (`builder`, `negatives`, ...) that no term uses."""
        read = frozenset[str]().union(*(term.reads for term in self.terms.values()))
        return [node for node in (*GRAPH_KEYS, *Objective.SHARED) if node not in read]

    @functools.cached_property
    def identity(self) -> str:
        """See `RunSpec`."""
        teacher = None
        if self.teacher is not None:
            # a seed does not change weights read from a file
            seed = self.teacher.seed if self.teacher.checkpoint is None else 0
            teacher = {"is": self.teacher.identity, "seed": seed}
        start: dict[str, Any] = {} if self.checkpoint is None else {"checkpoint": content_hash(self.checkpoint)}
        if self.drop_head:
            start["drop_head"] = True
        return identity(
            {
                "student": {**self.model.identity, **start},
                "teacher": teacher,
                "data": self.data.identity,
                "trainer": counted_options(self.trainer),
                "objective": {name: term.identity for name, term in self.terms.items()},
            }
        )

    @property
    def plugins(self) -> dict[str, str]:
        """See `source_hashes`."""
        graphs = [part for term in self.terms.values() for part in (term.builder, term.gnn, term.teacher_gnn)]
        own = [part for term in self.terms.values() for part in (term.part, *term.own_parts.values())]
        parts = [self.model, self.data, *own, *graphs]
        teacher = {} if self.teacher is None else self.teacher.plugins
        return {**source_hashes([part for part in parts if isinstance(part, Part)]), **teacher}

    @property
    def variant(self) -> str:
        """Name of the variant: the config's, or one made of the objective's terms and graph parts."""
        if self.config["variant"] is not None:
            return str(self.config["variant"])
        graph = next((term for term in self.terms.values() if term.builder is not None), None)
        parts = () if graph is None else (graph.builder, graph.gnn)
        return "-".join(["+".join(self.terms), *(part.name for part in parts if part is not None)])[:LONGEST_NAME]

    @property
    def folder(self) -> Path:
        """See `RunSpec`."""
        if self.config["run_dir"] is not None:
            return Path(self.config["run_dir"])
        study = Path(self.config["results"]) / str(self.config["study"])
        return run_place(study, self.variant, self.identity, self.seed)

    def network(self, data: Dataset | DatasetInfo) -> Network:
        """Return the untrained student."""
        return build_network(self.model, data, self.seed)

    def build(self, dataset: Dataset, teacher: Network | None = None) -> Built:
        """See `RunSpec`."""
        student = self.network(dataset)
        if self.teacher is None:
            teacher = None
        elif teacher is None:
            teacher = self.teacher.network(dataset)
        objective = build_objective(self.terms, self.seed, dataset, student, teacher)
        self.trainer.check_batches(student, dataset, objective)
        objective.check(self._setting(dataset))
        return Built(student, objective, teacher)

    def notes(self, dataset: Dataset, built: Built) -> Sequence[str]:
        """See `RunSpec`."""
        return (*dataset.notes, *built.objective.notes(self._setting(dataset)))

    def _setting(self, dataset: Dataset) -> Setting:
        """Return the setting of the training, for the objective."""
        trainer = self.trainer
        return Setting(dataset.train_labels, dataset.num_classes, trainer.batch_size, trainer.processes)


def cross_entropy() -> WeightedSum:
    """Return the objective for training on labels alone."""
    return WeightedSum({"ce": (OBJECTIVES.build("ce"), 1.0)})
