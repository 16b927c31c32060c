"""Named parts of a run, checked but not built yet."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from graphkd.binding import Bound, bind, options_of
from graphkd.data import DATASETS
from graphkd.engine.checkpoint import content_hash
from graphkd.objective.schedule import Schedule
from graphkd.objective.weighted_sum import Weight
from graphkd.registry import Registry

_seen: ContextVar[dict[str, dict[str, Any]] | None] = ContextVar("seen", default=None)


@contextmanager
def one_look() -> Iterator[None]:
    """Look at the files of each data set once in this context, however many runs use them."""
    outer = _seen.get()
    token = _seen.set({} if outer is None else outer)
    try:
        yield
    finally:
        _seen.reset(token)


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
        seen, key = _seen.get(), repr(self.document)
        if seen is None or key not in seen:
            found: dict[str, Any] = self.registry.factory(self.name).fingerprint(self.bound.all)
            if seen is None:
                return found
            seen[key] = found
        return seen[key]

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
    hashes: dict[str, str] = {}
    for module in sorted({part.module for part in parts}):
        file = Path(getattr(sys.modules.get(module), "__file__", None) or "")
        own = module.partition(".")[0] == "graphkd"
        if file.is_file() and (not own or file.resolve() in uncommitted(checkout())):
            hashes[module] = content_hash(file)
    return hashes


def checkout() -> Path | None:
    """Return the git checkout that graphkd runs from; None for an installed copy."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / ".git").exists() else None


@functools.cache  # a process keeps the code that it has loaded
def uncommitted(root: Path | None) -> frozenset[Path]:
    """Return the new and changed files of the package graphkd in a checkout."""
    if root is None:
        return frozenset()
    words = ("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", "graphkd")
    try:
        found = git(root, *words).split("\0")
    except (OSError, subprocess.CalledProcessError):
        return frozenset()
    return frozenset(root / line[3:] for line in found if line)


def git(root: Path, *arguments: str) -> str:
    """Return what git says of a checkout, without optional locks: a run that is killed must not leave one behind.

    Raises:
        OSError: git cannot be started.
        subprocess.CalledProcessError: It fails.
    """
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


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
