"""One small registry: names to classes, found by themselves, extended from outside."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import pkgutil
import traceback
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Generic, TypeVar

from graphkd.binding import Bound, Option, bind, options_of
from graphkd.errors import UserError, brief, choices, did_you_mean, one_line

T = TypeVar("T")
PLUGIN_GROUP = "graphkd.plugins"


@dataclass(frozen=True)
class Entry(Generic[T]):
    """What a name stands for: a class or function, with the defaults that this name presets."""

    factory: Callable[..., T]
    preset: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.factory.__module__}.{self.factory.__qualname__}"


class Registry(Generic[T]):
    """Classes of one kind by name.

    Every module of `package` is imported at the first look-up, so that dropping a file in the folder registers
    what it holds; modules outside register through the entry point group `graphkd.plugins` or by being imported.

    Args:
        kind: What messages call a member, for example "graph builder".
        package: The package whose modules hold the members.
        runtime: Constructor arguments that graphkd supplies itself (never options of a config).
    """

    def __init__(self, kind: str, package: str, runtime: Collection[str] = ()) -> None:
        self.kind = kind
        self.runtime = frozenset(runtime)
        self._package = package
        self._entries: dict[str, Entry[T]] = {}
        self._discovered = False

    def register(self, name: str, **preset: Any) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Return a decorator that registers a class or function under `name`.

        Args:
            name: The name in configs and on the command line.
            **preset: Defaults of the constructor that this name replaces, for families of one class.

        Raises:
            UserError: The name is taken; the message names both owners.
        """

        def add(factory: Callable[..., T]) -> Callable[..., T]:
            if not factory.__module__.startswith(self._package + "."):
                self._discover()
            entry = Entry(factory, preset)
            taken = self._entries.get(name)
            if taken is not None:
                raise UserError(f"two {self.kind}s are named '{name}': {taken} and {entry}")
            self._entries[name] = entry
            return factory

        return add

    def register_family(self, name: str, **preset: Any) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Return a decorator that registers a class or function for all names of the form "`name`/MEMBER".

        Its constructor gets what follows the slash as the run-time argument `model`, and checks it itself.

        Args:
            name: The part of the names before the slash.
            **preset: As in `register`.

        Raises:
            UserError: The name is taken; the message names both owners.
        """
        return self.register(f"{name}/", **preset)

    def names(self) -> list[str]:
        """Return all registered names, sorted; not those of families."""
        self._discover()
        return sorted(name for name in self._entries if not name.endswith("/"))

    def families(self) -> list[str]:
        """Return the names of all families, sorted."""
        self._discover()
        return sorted(name.removesuffix("/") for name in self._entries if name.endswith("/"))

    def get(self, name: str) -> Callable[..., T]:
        """Return the class or function registered under `name`, with the name's preset applied.

        Raises:
            UserError: There is none; the message lists the choices and the closest.
        """
        entry = self._entry(name)
        return functools.partial(entry.factory, **entry.preset) if entry.preset else entry.factory

    def factory(self, name: str) -> Any:
        """Return the class or function itself, without the name's preset: for what is declared on the class.

        Raises:
            UserError: As in `get`.
        """
        return self._entry(name).factory

    def options(self, name: str) -> dict[str, Option]:
        """Return the options of `name` (without what is supplied at run time), in the constructor's order."""
        entry = self._entry(name)
        return options_of(entry.factory, entry.preset, self.runtime)

    def holders(self, option: str) -> dict[str, Option]:
        """Return the option of that name of every member and family that has it, by theirs."""
        members = [*self.names(), *(f"{family}/NAME" for family in self.families())]
        found = {name: self.options(name).get(option) for name in members}
        return {name: its for name, its in found.items() if its is not None}

    def summary(self, name: str) -> str:
        """Return the first line of the member's docstring."""
        return (inspect.getdoc(self._entry(name).factory) or "").partition("\n")[0]

    def bind(self, name: str, options: dict[str, Any]) -> Bound:
        """Check a config's options for `name` without building it.

        Raises:
            UserError: The name or an option is unknown, or a value is of a wrong type.
        """
        return bind(options, self.options(name), f"{self.kind} '{name}'", self.holders)

    def build(self, name: str, **options: Any) -> T:
        """Build the member `name`; run-time arguments and options are both given by name.

        Raises:
            UserError: The name or an option is unknown, missing, of a wrong type or out of range.
        """
        entry = self._entry(name)
        known = options_of(entry.factory, entry.preset)
        return entry.factory(**bind(options, known, f"{self.kind} '{name}'").all)

    def _entry(self, name: str) -> Entry[T]:
        names, families = self.names(), self.families()
        if name in names:
            return self._entries[name]
        family, _, member = name.partition("/")
        if member and family in families:
            entry = self._entries[f"{family}/"]
            return Entry(entry.factory, {**entry.preset, "model": member})
        hint = did_you_mean(name, [*names, *(f"{known}/{member or 'NAME'}" for known in families)])
        known = choices([*names, *(f"{family}/NAME" for family in families)])
        plugin = "a plug-in's: plugins=[MODULE]"
        raise UserError(f"there is no {self.kind} {brief(name)}{hint} (choices: {known}; {plugin})")

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True  # already now: the modules below register, which may ask for this again
        try:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            _load_entry_points()
        except BaseException:
            self._discovered = False
            raise


_plugins: set[str] = set()
"""Files of the plug-ins that `import_plugins` imported."""


def place_in_plugin(error: BaseException) -> str:
    """Return where an exception left a plug-in, as ` in my_parts.py, line 12`; empty if it passed none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in _plugins]
    return f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""


def import_plugins(modules: Iterable[str]) -> None:
    """Import modules that register parts of their own (`plugins=[their.module]`).

    Raises:
        UserError: A module cannot be imported; the message names it and the cause.
    """
    for name in modules:
        try:
            _plugins.add(importlib.import_module(name).__file__ or name)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            is_missing = isinstance(error, ModuleNotFoundError) and error.name in (name, name.partition(".")[0])
            hint = "; it must be in the current folder, on PYTHONPATH or installed" if is_missing else ""
            if name.endswith(".py"):
                hint = f"; write plugins=[{PurePath(name).stem}], with its folder on PYTHONPATH or the current one"
            raise UserError(f"plugin '{name}' failed at import: {one_line(error)}{hint}") from error


@functools.cache
def _load_entry_points() -> None:
    for point in importlib.metadata.entry_points(group=PLUGIN_GROUP):
        try:
            # Not load(): the module may be half imported already, and be asking another registry for this.
            importlib.import_module(point.module)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            message = f"the installed plugin '{point.name}' ({point.value}) failed at import: {one_line(error)}"
            raise UserError(message) from error
