"""Composes configs with Hydra and turns its errors into one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from graphkd.ablation import quoted
from graphkd.errors import UserError, brief, check, choices, did_you_mean

NOT_VARIED = {"seed", "results", "run_dir", "force", "study", "variant", "plugins"}
NOT_OPTIONS = ("config_path", "config_name", "experimental_rerun")
"""What Hydra's command line has beyond ours."""
OPTIONAL_GROUP = "setting"
"""The group of which data need not have a config."""
CONTRAST_NODES = ("negatives", "bank")
REFUSALS = (HydraException, OmegaConfBaseException, YAMLError, ValueError)
"""What Hydra raises over a config or override that it does not like."""


def config_folder() -> Path:
    """The configs: the repository's in a checkout, else the copy inside the installed package."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "configs"
    return checkout if (checkout / "config.yaml").is_file() else package / "configs"


@dataclass(frozen=True)
class Composed:
    """A composed config.

    Attributes:
        config: Plain containers, interpolations resolved, without Hydra's own node.
        overrides: What was asked for, as written.
        unused: Top-level nodes for contrast (`negatives`, `bank`) that no term takes over.
    """

    config: dict[str, Any]
    overrides: list[str]
    unused: list[str]


class CommandParser(argparse.ArgumentParser):
    """Parses a subcommand's words; a mistake is the user's, in one line."""

    def __init__(self, command: str, parents: Sequence[argparse.ArgumentParser] = ()) -> None:
        """A parser with --help, and --config-dir unless a parent has it."""
        super().__init__(prog=command, parents=list(parents), add_help=False, allow_abbrev=False)
        if not parents:
            self.add_argument("--help", "-h", action="store_true")
            self.add_argument("--config-dir", "-cd")

    def error(self, message: str) -> NoReturn:
        """Raises a `UserError`."""
        raise UserError(f"{self.prog}: {message} (see graphkd {self.prog} --help)")


def arguments_parser(command: str) -> argparse.ArgumentParser:
    """Hydra's own command line (overrides, --multirun, --cfg, --config-dir, ...) for a subcommand."""
    return CommandParser(command, parents=[get_args_parser()])


def parse_arguments(command: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Parses a subcommand's arguments; options may stand among the overrides.

    Raises:
        UserError: An option is unknown or a word is no override.
    """
    parsed = arguments_parser(command).parse_intermixed_args(list(arguments))
    for name in NOT_OPTIONS:
        given = getattr(parsed, name) is not None
        check(not given, f"{command}: there is no option --{name.replace('_', '-')} (see graphkd {command} --help)")
    check(parsed.package is None or parsed.cfg is not None, f"{command}: --package needs --cfg")
    check_overrides(parsed.overrides)
    return parsed


def check_overrides(overrides: Sequence[str]) -> None:
    """Checks the form of overrides.

    Raises:
        UserError: A word is no override; the message names it.
    """
    for word in overrides:
        form = "=" in word[1:] or word.startswith("~")
        check(form, f"'{word}' is no override; overrides look like key=value, for example builder=knn")


class _Loader(ConfigLoaderImpl):
    """Hydra's loader, but a mapping as value replaces a node, where Hydra would merge it into what is there."""

    def load_configuration(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:  # fmt: skip
        """Composes a config, in a sweep's jobs too."""
        replacing: list[Override] = []
        others: list[str] = []
        for override in OverridesParser.create().parse_overrides(overrides):
            plain = override.package is None and not override.is_sweep_override()
            below = any(f"{_key(override)}.".startswith(f"{_key(replaced)}.") for replaced in replacing)
            if _is_replacement(override) or (plain and below):
                replacing.append(override)
            else:
                others.append(str(override.input_line))
        config: DictConfig = super().load_configuration(
            config_name, others, run_mode, from_shell, validate_sweep_overrides
        )
        for override in replacing:
            if _is_replacement(override):
                _replace(config, override)
            else:
                self._apply_overrides_to_config([override], config)
        config.hydra.overrides.task = split_hydra(overrides)[1]
        return config


def _is_replacement(override: Override) -> bool:
    is_own = not _key(override).startswith("hydra")
    return is_own and override.type == OverrideType.CHANGE and isinstance(override.value(), dict)


def _replace(config: DictConfig, override: Override) -> None:
    """Puts a mapping in a node's place, open to further overrides: names are checked when it is bound."""
    try:
        OmegaConf.update(config, _key(override), override.value(), merge=False)
        OmegaConf.set_struct(OmegaConf.select(config, _key(override)), False)
    except OmegaConfBaseException as error:
        raise ConfigCompositionException(f"Error in the override {override.input_line}") from error


@contextmanager
def hydra_session(config_dir: str | None = None) -> Iterator[Hydra]:
    """Hydra over graphkd's configs, with the user's own folder before them.

    Raises:
        UserError: The folder does not exist, or anything that Hydra refuses within.
    """
    search_path = create_config_search_path(str(config_folder()))
    if config_dir is not None:
        check(Path(config_dir).is_dir(), f"--config-dir: there is no folder {config_dir}")
        search_path.prepend(
            "command-line", f"file://{Path(config_dir).resolve()}", SearchPathQuery(provider="main", path=None)
        )
    GlobalHydra.instance().clear()
    try:
        version.setbase("1.3")
        hydra = Hydra("graphkd", _Loader(search_path))
        GlobalHydra.instance().initialize(hydra)
        yield hydra
    finally:
        GlobalHydra.instance().clear()


def compose(overrides: Sequence[str], config_dir: str | None = None, config_name: str = "config") -> Composed:
    """Composes a config and resolves it.

    Raises:
        UserError: Hydra refuses an override or a file; one line names the culprit and the nearest valid name.
    """
    with hydra_session(config_dir) as hydra:
        return _resolved(_compose(hydra, config_name, list(overrides)))


def check_multirun(config_name: str, overrides: Sequence[str], config_dir: str | None) -> None:
    """Checks that there are the sweeper and the launcher that overrides choose, before anything is written.

    Raises:
        UserError: Hydra refuses an override.
    """
    with hydra_session(config_dir) as hydra:
        _compose(hydra, config_name, list(overrides), RunMode.MULTIRUN)


def resolve_job(config: DictConfig, overrides: Sequence[str]) -> Composed:
    """The config that a Hydra launcher hands to a job."""
    return _resolved(config, overrides)


def expand_sweep(overrides: Sequence[str]) -> list[list[str]] | None:
    """All combinations of a grid sweep, or None where only the sweeper knows them.

    Raises:
        UserError: An override cannot be parsed.
    """
    parsed = _parse(overrides)
    if any(_key(override) == "hydra/sweeper" for override in parsed):
        return None
    swept = [override for override in parsed if not _key(override).startswith("hydra")]
    try:
        combinations: list[list[str]] = BasicSweeper.split_arguments(swept, max_batch_size=None)[0]
    except HydraException as error:
        raise UserError(_reason(error)) from error
    return combinations


def split_hydra(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of Hydra's own nodes (launchers, for example), and the others."""
    own = [override for override in overrides if override.lstrip("+~").startswith("hydra")]
    return own, [override for override in overrides if override not in own]


def varied(overrides: Sequence[str]) -> dict[str, str]:
    """What a plain run varies: its overrides by key, but for those that say where or which seed."""
    from graphkd.ablation import varied as by_key

    others = split_hydra(overrides)[1]
    return {key: value for key, value in by_key(others).items() if key not in NOT_VARIED}


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
        parsed = _parse(words)
        if any(_key(override) == node for override in parsed):
            changed[node] = compose(words, config_dir, config_name).config[node]
            continue
        own = changed.get(node)
        tree = OmegaConf.create({node: {"name": own} if isinstance(own, str) else own})
        try:
            ConfigLoaderImpl._apply_overrides_to_config(parsed, tree)
        except REFUSALS as error:
            what = f"the run's own {node}: {_reason(error)}"
            raise UserError(f"{' '.join(words)} cannot be applied to {what}") from error
        changed[node] = OmegaConf.to_container(tree[node], resolve=False)
    return changed


def check_used(composed: Composed, unused: Sequence[str], overrides: Sequence[str] | None = None) -> None:
    """Refuses overrides of nodes that nothing in the objective looks at.

    Args:
        composed: The config.
        unused: Graph nodes that the plan does not use.
        overrides: Which overrides to look at; all by default.

    Raises:
        UserError: There is such an override.
    """
    terms = ", ".join(composed.config["objective"])
    nodes = [*unused, *composed.unused]
    for override in composed.overrides if overrides is None else overrides:
        node = override.lstrip("+~").partition("=")[0].partition(".")[0]
        check(node not in nodes, f"'{override}' is given, but nothing in the objective ({terms}) uses {node}")


def launch(
    config_name: str, overrides: Sequence[str], jobs: Sequence[Sequence[str]], function: Callable[[Any], Any],
    config_dir: str | None = None,
) -> list[Any]:  # fmt: skip
    """Runs jobs through the Hydra launcher that `overrides` choose (the basic one runs them here, in order).

    Args:
        config_name: The config of the jobs.
        overrides: For all jobs, `hydra/launcher=...` among them.
        jobs: Further overrides of each job.
        function: Called with each job's config; must be importable, for it may run in another process.
        config_dir: The user's own configs, for a launcher of theirs.

    Returns:
        What the function returned for each job.

    Raises:
        UserError: Hydra refuses an override or has no such launcher.
    """
    with hydra_session(config_dir) as hydra:
        config = _compose(hydra, config_name, list(overrides), RunMode.MULTIRUN)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
        plugins = Plugins.instance()
        launcher = plugins.instantiate_launcher(hydra_context=context, task_function=function, config=config)
        # A launcher composes each job's config from the job's overrides alone.
        own = split_hydra(overrides)[1]
        return [job.return_value for job in launcher.launch([[*own, *job] for job in jobs], initial_job_idx=0)]


def sweep(overrides: Sequence[str], config_dir: str | None, folder: Path, function: Callable[[Any], Any]) -> None:
    """Runs a sweep through the Hydra sweeper and launcher that `overrides` choose.

    Args:
        overrides: As on the command line.
        config_dir: The user's own configs.
        folder: What sweeper and launcher leave is written there.
        function: Called with each job's config; returns a score. Higher is better: a sweeper that has a direction
            maximises, unless an override says otherwise.

    Raises:
        UserError: Hydra refuses an override or has no such sweeper or launcher.
    """
    words = [*overrides, f"hydra.sweep.dir={quoted(str(folder))}"]
    with hydra_session(config_dir) as hydra:
        config = _compose(hydra, "config", words, RunMode.MULTIRUN)
        if "direction" in config.hydra.sweeper and not any("hydra.sweeper.direction" in word for word in words):
            config = _compose(hydra, "config", [*words, "hydra.sweeper.direction=maximize"], RunMode.MULTIRUN)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
        sweeper = Plugins.instance().instantiate_sweeper(
            hydra_context=context, task_function=function, config=config
        )
        call(lambda: sweeper.sweep(arguments=list(config.hydra.overrides.task)))


def call(function: Callable[[], Any]) -> Any:
    """Calls into Hydra and turns its errors into the user's.

    Raises:
        UserError: Hydra or OmegaConf refuses something.
    """
    try:
        return function()
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UserError(_reason(error)) from error


def _compose(
    hydra: Hydra, config_name: str, overrides: list[str], mode: RunMode = RunMode.RUN
) -> DictConfig:
    for override in _parse(overrides):
        single = mode != RunMode.RUN or not override.is_sweep_override()
        check(single, f"'{override.input_line}' has several values, which needs -m (or quotes, where it is one text)")
        _check_optional(hydra, override)
    try:
        config: DictConfig = hydra.compose_config(config_name, overrides, mode, with_log_configuration=False)
    except MissingConfigException as error:
        raise UserError(_missing(error)) from error
    except REFUSALS as error:
        raise UserError(_explain(hydra, config_name, overrides, error)) from error
    return config


def _check_optional(hydra: Hydra, override: Override) -> None:
    """Hydra ignores a choice that an optional group lacks."""
    value = override.value()
    if _key(override) == OPTIONAL_GROUP and isinstance(value, str):
        known = hydra.config_loader.get_group_options(OPTIONAL_GROUP)
        hint = did_you_mean(value, known)
        check(value in known, f"{OPTIONAL_GROUP} has no config '{value}'{hint} (choices: {choices(known)})")


def _parse(overrides: Sequence[str]) -> list[Override]:
    check_overrides(overrides)
    parsed: list[Override] = []
    for override in overrides:
        try:
            parsed += OverridesParser.create().parse_overrides([override])
        except (HydraException, ValueError, RecursionError) as error:  # numbers and lists beyond all measure
            raise UserError(f"the override {brief(override)} cannot be read: {_reason(error)}") from error
    return parsed


def _resolved(config: DictConfig, overrides: Sequence[str] | None = None) -> Composed:
    asked = list(config.hydra.overrides.task) if overrides is None else list(overrides)
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        objective = OmegaConf.to_yaml(own.get("objective", {}), resolve=False)
        unused = [node for node in CONTRAST_NODES if "${" + node + "}" not in objective]
        plain = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the config cannot be resolved: {_reason(error)}") from error
    assert isinstance(plain, dict)
    return Composed({str(key): value for key, value in plain.items()}, asked, unused)


def _reason(error: BaseException) -> str:
    """What an error of Hydra, OmegaConf or YAML says, in one line; of one that just passes another on, the other."""
    while isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    key = getattr(error, "full_key", None)
    return f"{key}: {lines[0]}" if key else lines[0]


def _key(override: Override) -> str:
    return str(override.key_or_group)


def _missing(error: MissingConfigException) -> str:
    """For example `builder=knnn`: the group and what it holds."""
    if not error.missing_cfg_file:
        return _reason(error)
    group, _, name = error.missing_cfg_file.rpartition("/")
    if not error.options:
        return f"there is no config '{error.missing_cfg_file}'"
    hint = did_you_mean(name, error.options)
    return f"{group} has no config '{name}'{hint} (choices: {choices(error.options)})"


def _explain(hydra: Hydra, config_name: str, overrides: list[str], error: Exception) -> str:
    """Names the override that Hydra refused, with the closest key of the config without it."""
    culprit = _culprit(hydra, config_name, overrides)
    if culprit is None:
        return f"the config '{config_name}' cannot be composed: {_reason(error)}"
    word, others = culprit
    key = word.lstrip("+~").partition("=")[0]
    try:
        config = hydra.compose_config(config_name, others, RunMode.RUN, with_log_configuration=False)
        parent, _, name = key.rpartition(".")
        node: Any = OmegaConf.select(config, parent) if parent else config
        known = [str(item) for item in node] if isinstance(node, Mapping | DictConfig) else []
        known = [item for item in known if item != "hydra"]
    except REFUSALS:
        parent, name, known = "", key, []
    if name in known or not known or word.startswith("+"):
        return f"the override '{word}' cannot be applied: {_reason(error)}"
    hint = did_you_mean(name, known)
    where = f"{parent} has" if parent else "the config has"
    return f"'{word}': {where} no '{name}'{hint} (choices: {choices(known)})"


def _culprit(hydra: Hydra, config_name: str, overrides: list[str]) -> tuple[str, list[str]] | None:
    """The last override without which the config composes, and the others."""
    for index in reversed(range(len(overrides))):
        others = overrides[:index] + overrides[index + 1 :]
        try:
            hydra.compose_config(config_name, others, RunMode.RUN, with_log_configuration=False)
        except REFUSALS:
            continue
        return overrides[index], others
    return None
