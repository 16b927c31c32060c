"""Compose configs with Hydra and turn its errors into one line."""

from __future__ import annotations

import argparse
import copy
import os
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from hydra import version
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from graphkd import ablation
from graphkd.binding import no_option
from graphkd.errors import UserError, check, choices, did_you_mean, one_of
from graphkd.yaml_files import yaml_text
from graphkd_cli.hydra_internals import (
    Callbacks,
    ConfigLoaderImpl,
    FileConfigSource,
    Hydra,
    SourcesRegistry,
    apply_overrides,
    config_file,
    create_config_search_path,
    expand_choices,
    get_args_parser,
)
from graphkd_cli.overrides import NAMED, apply, check_form, depth, in_grammar, make_way, parse, split

NOT_VARIED = {"seed", "results", "run_dir", "force", "study", "variant", "plugins"}
NOT_OPTIONS = ("config_path", "config_name", "experimental_rerun")
"""Options of Hydra's command line that ours does not have."""
OPTIONAL_GROUP = "setting"
"""Optional group: Hydra ignores a choice without a config."""
WITHOUT_NODE = {
    "logger": "no logger is chosen; choose one too",
    **dict.fromkeys(("pair", "experiment", "setting"), "it is a choice that has no options of its own"),
}
"""Groups that may have no node in the config, and why an option of theirs is refused then."""
RUN = ("config", "launch", "transfer")
"""The configs that commands run from; Hydra settings in suites and tables are ignored."""
KEPT = {"output_subdir": None, "verbose": False, "job_logging.root": None, "hydra_logging.root": None}
"""Hydra settings that would change what is printed or written."""
REFUSALS = (HydraException, OmegaConfBaseException, YAMLError, ValueError, RecursionError)
"""Errors that Hydra raises on a wrong config or override."""


def config_folder() -> Path:
    """Return the folder of configs: the repository's in a checkout, otherwise the copy in the installed package."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "configs"
    return checkout if (checkout / "config.yaml").is_file() else package / "configs"


def config_names(group: str, config_dir: str | None = None) -> list[str]:
    """Return the names of a group's configs in graphkd's folder and the user's own, sorted."""
    folders = [config_folder(), *([Path(config_dir)] if config_dir else [])]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


@dataclass(frozen=True)
class Composed:
    """A resolved config in plain containers, without Hydra's own node, and the overrides as written."""

    config: dict[str, Any]
    overrides: list[str]


class CommandParser(argparse.ArgumentParser):
    """Parser of a subcommand's arguments; errors are `UserError`s of one line."""

    def __init__(self, command: str, parents: Sequence[argparse.ArgumentParser] = (), has_configs: bool = True) -> None:
        """Create a parser with --help and, for a command with configs, --config-dir, unless a parent has them."""
        super().__init__(prog=command, parents=list(parents), add_help=False, allow_abbrev=False)
        if "--help" not in self._option_string_actions:
            self.add_argument("--help", "-h", action="store_true")
        if has_configs and "--config-dir" not in self._option_string_actions:
            self.add_argument("--config-dir", "-cd")

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError`."""
        hint = "; overrides have no dashes" if re.search(r"arguments: --?[\w.]+=", message) else self._nearest(message)
        raise UserError(f"{self.prog}: {message}{hint} (see graphkd {self.prog} --help)")

    def _nearest(self, message: str) -> str:
        """Return a hint at the option that the first unknown one is nearest to."""
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        known = [option for option in self._option_string_actions if option.startswith("--")]
        return did_you_mean(unknown[1], known) if unknown else ""


def arguments_parser(command: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Return the parser of Hydra's own command line (overrides, --multirun, --cfg, ...) for a subcommand."""
    return CommandParser(command, parents=[get_args_parser(), *parents])


def parse_arguments(command: str, arguments: Sequence[str], *parents: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse a subcommand's arguments, with the options of `parents`; options may stand among the overrides.

    Raises:
        UserError: An option is unknown, or a word is not an override.
    """
    check("--version" not in arguments, f"{command}: there is no option --version; see graphkd --version")
    parsed = arguments_parser(command, *parents).parse_intermixed_args(list(arguments))
    for name in NOT_OPTIONS:
        given = getattr(parsed, name) is not None
        check(not given, f"{command}: there is no option --{name.replace('_', '-')} (see graphkd {command} --help)")
    check(parsed.package is None or parsed.cfg is not None, f"{command}: --package needs --cfg")
    check(not parsed.resolve or parsed.cfg is not None, f"{command}: --resolve needs --cfg")
    single = not (parsed.multirun and parsed.cfg)
    check(single, f"{command}: --cfg prints the config of one run: leave out -m, and give each option one value")
    check_form(parsed.overrides)
    return parsed


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
        if override.is_sweep_override() or override.package is not None or _key(override).startswith("hydra"):
            return False
        return isinstance(override.value(), dict) or not self.repository.group_exists(_key(override))

    def _is_outdone(self, override: Override, words: Sequence[str]) -> bool:
        """Return whether a later choice of the same group replaces a mapping."""
        later = words[len(words) - words[::-1].index(override.input_line) :]
        return any(split(word)[0] == _key(override) and not word.startswith("~") for word in later)


@contextmanager
def hydra_session(config_dir: str | None = None) -> Iterator[Hydra]:
    """Open Hydra over graphkd's configs, with the user's own folder before them.

    Raises:
        UserError: The folder does not exist, or Hydra refuses something within the context.
    """
    SourcesRegistry.instance().register(_Source)
    search_path = create_config_search_path(f"{_Source.scheme()}://{config_folder()}")
    if config_dir is not None:
        check(Path(config_dir).is_dir(), f"--config-dir: there is no folder {config_dir}")
        own = f"{_Source.scheme()}://{Path(config_dir).resolve()}"
        search_path.prepend("command-line", own, SearchPathQuery(provider="main", path=None))
    GlobalHydra.instance().clear()
    try:
        version.setbase("1.3")
        hydra = Hydra("graphkd", _Loader(search_path))
        GlobalHydra.instance().initialize(hydra)
        yield hydra
    finally:
        GlobalHydra.instance().clear()


def compose(overrides: Sequence[str], config_dir: str | None = None, config_name: str = "config") -> Composed:
    """Compose a config and resolve it.

    Raises:
        UserError: Hydra refuses an override or a file; one line names the culprit and the nearest valid name.
    """
    words = in_grammar(overrides)
    own = split_hydra(words)[0]
    check(not own, f"'{own and own[0]}' is for several runs: use it with run -m or ablation")
    with hydra_session(config_dir) as hydra:
        config = _compose(hydra, config_name, words)
        task = config.hydra.overrides.task
        with flag_override(config, ["readonly", "struct"], False):
            del config["hydra"]
        return resolve_job(config, task)


def check_multirun(config_name: str, overrides: Sequence[str], config_dir: str | None) -> None:
    """Check that the sweeper and launcher that overrides choose exist, before anything is written.

    Raises:
        UserError: Hydra refuses an override.
    """
    with hydra_session(config_dir) as hydra:
        _compose(hydra, config_name, in_grammar(overrides, sweeps=True), RunMode.MULTIRUN)


def resolve_job(config: DictConfig, overrides: Sequence[str]) -> Composed:
    """Resolve a composed config without Hydra's node, such as a Hydra launcher hands to a job.

    Raises:
        UserError: An interpolation cannot be resolved.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"the config cannot be resolved: {_reason(error)}") from error
    assert isinstance(plain, dict)
    return Composed({str(key): value for key, value in plain.items()}, _as_written(overrides))


def expand_sweep(overrides: Sequence[str]) -> list[list[str]] | None:
    """Return all combinations of a grid sweep, or None if only the sweeper knows them.

    Raises:
        UserError: An override cannot be parsed.
    """
    parsed = parse(in_grammar(overrides, sweeps=True))
    if any(_key(override) == "hydra/sweeper" for override in parsed):
        return None
    swept = [override for override in parsed if not _key(override).startswith("hydra")]
    combinations: list[list[str]] = call(lambda: expand_choices(swept))
    return combinations


def split_hydra(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the overrides of Hydra's own nodes (launchers, for example), and the others."""
    own = [override for override in overrides if override.lstrip("+~").startswith("hydra")]
    return own, [override for override in overrides if override not in own]


def varied(overrides: Sequence[str]) -> dict[str, str]:
    """Return what a plain run varies: its overrides by key, except those of seed and folders."""
    by_key = ablation.varied(split_hydra(overrides)[1])
    return {key: value for key, value in by_key.items() if key not in NOT_VARIED}


def nodes(overrides: Sequence[str]) -> set[str]:
    """Return the top-level nodes that overrides change."""
    return {override.lstrip("+~").partition("=")[0].partition(".")[0] for override in overrides}


def over(
    config: Mapping[str, Any], overrides: Sequence[str], config_dir: str | None = None, config_name: str = "config"
) -> dict[str, Any]:
    """Apply overrides on top of a finished run's config.

    Args:
        config: The run's own, resolved.
        overrides: Of a whole node (`data=NAME`), which then comes from the configs, or of options within it
            (`data.root=FOLDER`), which then change the run's own node.
        config_dir: The user's own configs.
        config_name: The config that a whole node comes from.

    Raises:
        UserError: Hydra refuses an override.
    """
    changed = dict(config)
    for node in nodes(overrides):
        words = [word for word in overrides if nodes([word]) == {node}]
        parsed = sorted(parse(in_grammar(words)), key=depth)
        if any(_key(override) == node for override in parsed):
            changed[node] = compose(words, config_dir, config_name).config[node]
            continue
        own = changed.get(node)
        tree = OmegaConf.create({node: {"name": own} if isinstance(own, str) else own})
        try:
            apply_overrides(parsed, tree)
        except REFUSALS as error:
            what = f"the run's own {node}: {_reason(error)}"
            raise UserError(f"{' '.join(words)} cannot be applied to {what}") from error
        changed[node] = OmegaConf.to_container(tree[node], resolve=False)
    return changed


def check_used(composed: Composed, unused: Sequence[str], overrides: Sequence[str] | None = None) -> None:
    """Check that no override (by default the config's own) is of a node that the run does not use.

    Raises:
        UserError: An override is.
    """
    terms = ", ".join(composed.config["objective"])
    for override in composed.overrides if overrides is None else overrides:
        node = split(override)[0].partition(".")[0]
        check(node not in unused, f"'{override}' is given, but nothing in the objective ({terms}) uses {node}")


def launch(
    config_name: str, overrides: Sequence[str], jobs: Sequence[Sequence[str]], function: Callable[[Any], Any],
    config_dir: str | None = None,
) -> list[Any]:  # fmt: skip
    """Run jobs by the Hydra launcher that `overrides` choose (the basic one runs them here, in order).

    Args:
        config_name: The config of the jobs.
        overrides: For all jobs, `hydra/launcher=...` among them.
        jobs: Further overrides of each job.
        function: Called with each job's config; must be importable, since it may run in another process.
        config_dir: The user's own configs, which may include a launcher.

    Returns:
        The function's result for each job.

    Raises:
        UserError: Hydra refuses an override or has no such launcher.
    """
    with hydra_session(config_dir) as hydra:
        config = _compose(hydra, config_name, list(overrides), RunMode.MULTIRUN)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
        plugins = Plugins.instance()
        launcher = plugins.instantiate_launcher(hydra_context=context, task_function=function, config=config)
        # A launcher composes each job's config only from the job's overrides.
        own = split_hydra(overrides)[1]
        return [job.return_value for job in launcher.launch([[*own, *job] for job in jobs], initial_job_idx=0)]


def sweep(overrides: Sequence[str], config_dir: str | None, folder: Path, function: Callable[[Any], Any]) -> None:
    """Run a sweep by the Hydra sweeper and launcher that `overrides` choose.

    Args:
        overrides: As on the command line.
        config_dir: The user's own configs.
        folder: Output folder of sweeper and launcher.
        function: Called with each job's config; returns a score, the higher the better: a sweeper with a direction
            maximises unless an override says otherwise.

    Raises:
        UserError: Hydra refuses an override or has no such sweeper or launcher.
    """
    words = [*in_grammar(overrides, sweeps=True), f"hydra.sweep.dir={ablation.quoted(str(folder))}"]
    with hydra_session(config_dir) as hydra:
        config = _compose(hydra, "config", words, RunMode.MULTIRUN)
        if "direction" in config.hydra.sweeper and not any("hydra.sweeper.direction" in word for word in words):
            config = _compose(hydra, "config", [*words, "hydra.sweeper.direction=maximize"], RunMode.MULTIRUN)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
        sweeper = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=function, config=config)
        call(lambda: sweeper.sweep(arguments=_as_written(config.hydra.overrides.task)))


def call(function: Callable[[], Any]) -> Any:
    """Call into Hydra and turn its errors into `UserError`s.

    Raises:
        UserError: Hydra or OmegaConf refuses something.
    """
    try:
        return function()
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UserError(_reason(error)) from error


def _compose(hydra: Hydra, config_name: str, overrides: list[str], mode: RunMode = RunMode.RUN) -> DictConfig:
    for override in parse(sorted(overrides)):
        single = mode != RunMode.RUN or not override.is_sweep_override()
        check(single, f"'{override.input_line}' has several values, which needs -m (or quotes, if it is one text)")
        value = override.value()
        if _key(override) == OPTIONAL_GROUP and isinstance(value, str):
            one_of(value, hydra.config_loader.get_group_options(OPTIONAL_GROUP), f"{OPTIONAL_GROUP} has no config")
    try:
        config: DictConfig = hydra.compose_config(config_name, overrides, mode, with_log_configuration=False)
    except MissingConfigException as error:
        raise UserError(_missing(error)) from error
    except REFUSALS as error:
        raise UserError(_explain(hydra, config_name, overrides, error)) from error
    return config


def _as_written(overrides: Sequence[str]) -> list[str]:
    """Return overrides as they were written, without OmegaConf's replacement of ${...}."""
    words = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(words, list)
    return words


def _reason(error: BaseException) -> str:
    """Return the message of an error of Hydra, OmegaConf or YAML, or of its cause, in one line."""
    while isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, RecursionError):
        return "something in it refers to itself, or is nested too deep"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    key = getattr(error, "full_key", None)
    return f"{key}: {lines[0]}" if key else lines[0]


def _key(override: Override) -> str:
    return str(override.key_or_group)


def _missing(error: MissingConfigException) -> str:
    """Return a message on a choice such as `builder=knnn`, with the configs of its group."""
    if not error.missing_cfg_file:
        return _reason(error)
    group, _, name = error.missing_cfg_file.rpartition("/")
    if not error.options:
        return f"there is no config '{error.missing_cfg_file}'"
    hint = did_you_mean(name, error.options)
    plugin = f"; a plug-in's: plugins=[MODULE] '{group}={{name: {name}}}'" if NAMED.match(group) else ""
    return f"{group} has no config '{name}'{hint} (choices: {choices(error.options)}{plugin})"


def _explain(hydra: Hydra, config_name: str, overrides: list[str], error: Exception) -> str:
    """Return a message that names the override that Hydra refused, and the closest valid key."""
    if isinstance(error, UserError):
        return str(error)
    culprit = _culprit(hydra, config_name, overrides)
    if culprit is None:  # the fault is in a file, not in an override
        return f"the config '{config_name}' cannot be composed: {_reason(error)}"
    word, others, error = culprit
    parent, _, name = split(word)[0].rpartition(".")
    try:
        config = hydra.compose_config(config_name, others, RunMode.RUN, with_log_configuration=False)
        while parent and OmegaConf.select(config, parent) is None:  # the first missing key on the path
            parent, _, name = parent.rpartition(".")
        node: Any = OmegaConf.select(config, parent) if parent else config
        known = [str(item) for item in node] if isinstance(node, Mapping | DictConfig) else []
        known = [item for item in known if item != "hydra"]
    except REFUSALS:
        known = []
    if name in known or not known or word.startswith("+"):
        return f"the override '{word}' cannot be applied: {_reason(error)}"
    if NAMED.match(parent) and "name" in known:
        from graphkd.run.parse import registry_at

        registry = registry_at(parent)
        holders = [] if registry is None else registry.holders(name)
        return f"'{word}': {parent} '{node.name}' has {no_option(name, known, holders)}"
    if name in WITHOUT_NODE and not parent:
        names = choices(hydra.config_loader.get_group_options(name))
        return f"'{word}': {WITHOUT_NODE[name]}; {name}=NAME (choices: {names})"
    hint = did_you_mean(name, known)
    where = f"{parent} has" if parent else "the config has"
    return f"'{word}': {where} no '{name}'{hint} (choices: {choices(known)})"


def _culprit(hydra: Hydra, config_name: str, overrides: list[str]) -> tuple[str, list[str], Exception] | None:
    """Return the first override that Hydra refuses, the overrides applied before it, and the error."""

    def place(word: str) -> tuple[bool, int, str]:
        key = split(word)[0]
        return not hydra.config_loader.get_group_options(key.partition("@")[0]), key.count("."), word

    words = sorted(overrides, key=place)
    for count, word in enumerate(words):
        try:
            hydra.compose_config(config_name, words[: count + 1], RunMode.RUN, with_log_configuration=False)
        except REFUSALS as error:
            return word, words[:count], error
    return None
