"""Named parts of a run, checked but not built yet."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from graphkd.binding import Bound, bind, options_of
from graphkd.data import DATASETS
from graphkd.engine.weights import content_hash
from graphkd.identity import cached_fingerprint
from graphkd.objective.schedule import Schedule
from graphkd.objective.weighted_sum import Weight
from graphkd.registry import Registry
from graphkd.run.checkout import checkout, uncommitted


@dataclass(frozen=True)
class Part:
    """A named part of a config, checked against its constructor but not built yet."""

    registry: Registry[Any]
    name: str
    bound: Bound

    def build(self, **runtime: Any) -> Any:
        """Build the part; `runtime` are the arguments that no config gives."""
        return self.registry.build(self.name, **self.bound.all, **runtime)

    @property
    def identity(self) -> dict[str, Any]:
        """Its share of a run's identity: its name and the options that differ from their defaults."""
        factory = self.registry.factory(self.name)
        revision = getattr(factory, "revision", 1)
        return {
            "name": self.name,
            **_counted(factory, self.bound.given),
            **({"content": content} if (content := self.content) else {}),
            **({"revision": revision} if revision > 1 else {}),
        }

    @property
    def content(self) -> dict[str, Any]:
        """Hashes of a data set's files, which count instead of their paths; empty where there are none."""
        if self.registry is not DATASETS:
            return {}
        factory = self.registry.factory(self.name)
        found: dict[str, Any] = cached_fingerprint(repr(self.document), lambda: factory.fingerprint(self.bound.all))
        return found

    @property
    def module(self) -> str:
        """Name of the module that it comes from."""
        return str(self.registry.factory(self.name).__module__)

    @property
    def document(self) -> dict[str, Any]:
        """Its node in a resolved config."""
        return {"name": self.name, **self.bound.all}


@dataclass(frozen=True)
class Term:
    """A term of an objective, with the parts that it uses."""

    part: Part
    weight: Weight
    schedule: Schedule | None = None
    graph_dim: int | None = None
    builder: Part | None = None
    gnn: Part | None = None
    teacher_gnn: Part | Literal["shared"] | None = None
    reads: frozenset[str] = frozenset()
    """The top-level nodes for graphs and contrast that it uses."""
    own_parts: Mapping[str, Part] = field(default_factory=dict)
    """Parts that it names itself, by the constructor's argument."""

    @property
    def identity(self) -> dict[str, Any]:
        """Its share of a run's identity."""
        document: dict[str, Any] = {"objective": self.part.identity, "weight": self.weight}
        if self.schedule is not None:
            document["schedule"] = self.schedule.points
        document |= {key: part.identity for key, part in self.own_parts.items()}
        if self.builder is not None:
            document["builder"] = self.builder.identity
        if self.gnn is not None:
            document["gnn"] = self.gnn.identity
            document["teacher_gnn"] = (
                self.teacher_gnn.identity if isinstance(self.teacher_gnn, Part) else self.teacher_gnn
            )
        return document


def counted_options(group: Any) -> dict[str, Any]:
    """Return the options of a dataclass that count in an identity and differ from its defaults."""
    return _counted(type(group), bind(vars(group), options_of(type(group)), "").given)


def source_hashes(parts: Iterable[Part]) -> dict[str, str]:
    """Return the SHA-256 of the source of each module that parts come from, by module name.

    Those of graphkd itself count only while its checkout has not committed them: the commit tells the others.
    """
    try:
        changed = uncommitted(checkout())
    except (OSError, subprocess.CalledProcessError):
        changed = frozenset()
    modules = sorted({part.module for part in parts})
    hashes = {module: source_hash(module) for module in modules if not is_own(module) or _file(module) in changed}
    return {module: found for module, found in hashes.items() if found is not None}


def is_own(module: str) -> bool:
    """Return whether a module is graphkd's own."""
    return module.partition(".")[0] == "graphkd"


def source_hash(module: str) -> str | None:
    """Return the SHA-256 of a loaded module's source; None where there is no file."""
    file = _file(module)
    return content_hash(file) if file.is_file() else None


def _file(module: str) -> Path:
    file = Path(getattr(sys.modules.get(module), "__file__", None) or "")
    return file.parent.resolve() / file.name


def _counted(factory: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that count in an identity, not those on how or where something is computed."""
    ignored: frozenset[str] = getattr(factory, "NOT_IDENTITY", frozenset())
    counted: dict[str, Any] = {}
    for name in given.keys() - ignored:
        value = given[name]
        if not dataclasses.is_dataclass(value):
            counted[name] = value
        elif group := counted_options(value):  # a group without counted options is like none
            counted[name] = group
    return counted
