"""Where configs are, and how Hydra reads and combines them."""

from __future__ import annotations

import copy
import os
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from hydra import version
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from graphkd.errors import UserError, check
from graphkd.yaml_files import yaml_text
from graphkd_cli.hydra_internals import (
    ConfigLoaderImpl,
    FileConfigSource,
    Hydra,
    SourcesRegistry,
    config_file,
    create_config_search_path,
)
from graphkd_cli.overrides import apply, depth, key_of, make_way, split, split_hydra

RUN = ("config", "launch", "transfer")
"""The configs that commands run from; Hydra settings in suites and tables are ignored."""
KEPT = {"output_subdir": None, "verbose": False, "job_logging.root": None, "hydra_logging.root": None}
"""Hydra settings that would change what is printed or written."""


def config_folder() -> Path:
    """Return the folder of configs: the repository's in a checkout, otherwise the copy in the installed package."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "configs"
    return checkout if (checkout / "config.yaml").is_file() else package / "configs"


def config_paths(group: str, config_dir: str | None = None) -> dict[str, Path]:
    """Return the files of a group's configs by name, sorted; the user's own replace graphkd's of the same name.

    Raises:
        UserError: The user's folder does not exist.
    """
    folders = [config_folder(), *_own_folder(config_dir)]
    paths = {path.stem: path for folder in folders for path in (folder / group).glob("*.yaml")}
    return dict(sorted(paths.items()))


def config_names(group: str, config_dir: str | None = None) -> list[str]:
    """Return the names of a group's configs in graphkd's folder and the user's own, sorted."""
    return list(config_paths(group, config_dir))


def _own_folder(config_dir: str | None) -> list[Path]:
    """Return the user's own folder, if one is named; raise a `UserError` if it does not exist."""
    if config_dir is None:
        return []
    check(Path(config_dir).is_dir(), f"--config-dir: there is no folder {config_dir}")
    return [Path(config_dir).resolve()]


class _Source(FileConfigSource):
    """Hydra's reader of config files, with a check of each file first.

    Attributes:
        asked: The state of each path requested since this was last cleared.
        read: Each file that was read: its state and its config.
    """

    asked: ClassVar[dict[Path, Hashable]] = {}
    read: ClassVar[dict[tuple[str, Path], tuple[Hashable, ConfigResult]]] = {}

    @staticmethod
    def scheme() -> str:
        """Return the scheme of these files' paths."""
        return "graphkd"

    def is_group(self, config_path: str) -> bool:
        """Return whether a group exists; Hydra calls this before it lists one."""
        self._ask(config_path)
        return super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """Return whether a config exists; Hydra calls this before it loads one."""
        self._ask(self._normalize_file_name(config_path))
        return super().is_config(config_path)

    def _ask(self, name: str) -> None:
        path = Path(self.path, name)
        self.asked[path] = _state(path)

    def load_config(self, config_path: str) -> ConfigResult:
        """Load a config.

        Raises:
            UserError: As in `graphkd.yaml_files`.
        """
        path = config_file(self, config_path)
        key, state = (self.provider, path), _state(path)
        if state is not None and key in self.read and self.read[key][0] == state:
            return copy.deepcopy(self.read[key][1])
        if path.is_file():
            yaml_text(path)
        try:
            result = super().load_config(config_path)
        except RecursionError as error:  # too deep even for the check
            raise UserError(f"{path}: nested too deep") from error
        self.read[key] = state, copy.deepcopy(result)
        return result


def _state(path: Path) -> Hashable:
    """Return a value that changes with a file or folder; None if it does not exist."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns


_REMEMBERED: dict[Hashable, tuple[dict[Path, Hashable], DictConfig]] = {}
"""Composed configs by their choices, each with the state of the files that it depends on."""


class _Loader(ConfigLoaderImpl):
    """Hydra's loader, but overrides apply in any order: those of a node first, then those below it.

    A mapping replaces a node, where Hydra would merge the two, and a name may get options.
    """

    def load_configuration(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:  # fmt: skip
        """Compose a config; also used for the jobs of a sweep."""
        parsed = sorted(OverridesParser.create().parse_overrides(overrides), key=depth)
        values = [override for override in parsed if self._is_value(override)]
        values = [override for override in values if not self._is_outdone(override, overrides)]
        others = [str(override.input_line) for override in parsed if not self._is_value(override)]
        config = self._composed(config_name, others, run_mode, from_shell, validate_sweep_overrides)
        for count, override in enumerate(values):
            make_way(config, override, values[:count])
            apply(config, override)
        config.hydra.overrides.task = split_hydra(overrides)[1]
        for key, value in KEPT.items():
            kept = config_name not in RUN or OmegaConf.select(config.hydra, key) == value
            check(kept, f"the configs set hydra.{key}, but graphkd keeps Hydra's output as it is")
        return config

    def _composed(self, config_name: str | None, choices: list[str], *how: Any) -> DictConfig:
        """Return a copy of the config of some choices, from a cache: the runs of a suite repeat them."""
        sources = tuple(part.path for part in self.get_search_path().get_path())
        key = config_name, tuple(choices), how, sources
        asked, kept = _REMEMBERED.get(key, ({}, None))
        if kept is not None and all(_state(path) == state for path, state in asked.items()):
            config = copy.deepcopy(kept)
            config.hydra.runtime.cwd = os.getcwd()
            return config
        _Source.asked.clear()
        config = super().load_configuration(config_name, choices, *how)
        if len(config.hydra.runtime.config_sources) == len(sources):  # a config may add folders to search
            _REMEMBERED[key] = dict(_Source.asked), copy.deepcopy(config)
        return config

    def _is_value(self, override: Override) -> bool:
        """Return whether an override sets a value, rather than choose a config or a Hydra setting."""
        if override.is_sweep_override() or override.package is not None or key_of(override).startswith("hydra"):
            return False
        return isinstance(override.value(), dict) or not self.repository.group_exists(key_of(override))

    def _is_outdone(self, override: Override, words: Sequence[str]) -> bool:
        """Return whether a later choice of the same group replaces a mapping."""
        later = words[len(words) - words[::-1].index(override.input_line) :]
        return any(split(word)[0] == key_of(override) and not word.startswith("~") for word in later)


@contextmanager
def hydra_session(config_dir: str | None = None) -> Iterator[Hydra]:
    """Open Hydra over graphkd's configs, with the user's own folder before them.

    Raises:
        UserError: The folder does not exist, or Hydra refuses something within the context.
    """
    SourcesRegistry.instance().register(_Source)
    search_path = create_config_search_path(f"{_Source.scheme()}://{config_folder()}")
    for own in _own_folder(config_dir):
        path = f"{_Source.scheme()}://{own}"
        search_path.prepend("command-line", path, SearchPathQuery(provider="main", path=None))
    GlobalHydra.instance().clear()
    try:
        version.setbase("1.3")
        hydra = Hydra("graphkd", _Loader(search_path))
        GlobalHydra.instance().initialize(hydra)
        yield hydra
    finally:
        GlobalHydra.instance().clear()
