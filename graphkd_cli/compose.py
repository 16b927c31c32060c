"""Compose configs with Hydra, and run jobs by its launchers and sweepers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.errors import MissingConfigException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from graphkd import ablation
from graphkd.errors import UserError, check, one_of
from graphkd_cli.config_files import hydra_session
from graphkd_cli.hydra_internals import Callbacks, Hydra, apply_overrides, expand_choices
from graphkd_cli.overrides import depth, in_grammar, key_of, parse, split, split_hydra
from graphkd_cli.refusals import REFUSALS, call, explain, missing, reason

NOT_VARIED = {"seed", "results", "run_dir", "force", "study", "variant", "plugins"}
OPTIONAL_GROUP = "setting"
"""Optional group: Hydra ignores a choice without a config."""


@dataclass(frozen=True)
class Composed:
    """A resolved config in plain containers, without Hydra's own node, and the overrides as written."""

    config: dict[str, Any]
    overrides: list[str]


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
        raise UserError(f"the config cannot be resolved: {reason(error)}") from error
    assert isinstance(plain, dict)
    return Composed({str(key): value for key, value in plain.items()}, _as_written(overrides))


def expand_sweep(overrides: Sequence[str]) -> list[list[str]] | None:
    """Return all combinations of a grid sweep, or None if only the sweeper knows them.

    Raises:
        UserError: An override cannot be parsed.
    """
    parsed = parse(in_grammar(overrides, sweeps=True))
    if any(key_of(override) == "hydra/sweeper" for override in parsed):
        return None
    swept = [override for override in parsed if not key_of(override).startswith("hydra")]
    combinations: list[list[str]] = call(lambda: expand_choices(swept))
    return combinations


def varied(overrides: Sequence[str]) -> dict[str, str]:
    """Return what a plain run varies: its overrides by key, except those of seed and folders."""
    by_key = ablation.varied(split_hydra(overrides)[1])
    return {key: value for key, value in by_key.items() if key not in NOT_VARIED}


def nodes(overrides: Sequence[str]) -> set[str]:
    """Return the top-level nodes that overrides change."""
    return {split(override)[0].partition(".")[0] for override in overrides}


def with_overrides(
    config: Mapping[str, Any], overrides: Sequence[str], config_dir: str | None = None, config_name: str = "config"
) -> dict[str, Any]:
    """Return a finished run's config with overrides applied.

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
        if any(key_of(override) == node for override in parsed):
            changed[node] = compose(words, config_dir, config_name).config[node]
            continue
        own = changed.get(node)
        tree = OmegaConf.create({node: {"name": own} if isinstance(own, str) else own})
        try:
            apply_overrides(parsed, tree)
        except REFUSALS as error:
            what = f"the run's own {node}: {reason(error)}"
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
        (node,) = nodes([override])
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


def _compose(hydra: Hydra, config_name: str, overrides: list[str], mode: RunMode = RunMode.RUN) -> DictConfig:
    for override in parse(sorted(overrides)):
        single = mode != RunMode.RUN or not override.is_sweep_override()
        check(single, f"'{override.input_line}' has several values, which needs -m (or quotes, if it is one text)")
        value = override.value()
        if key_of(override) == OPTIONAL_GROUP and isinstance(value, str):
            one_of(value, hydra.config_loader.get_group_options(OPTIONAL_GROUP), f"{OPTIONAL_GROUP} has no config")
    try:
        config: DictConfig = hydra.compose_config(config_name, overrides, mode, with_log_configuration=False)
    except MissingConfigException as error:
        raise UserError(missing(error)) from error
    except REFUSALS as error:
        raise UserError(explain(hydra, config_name, overrides, error)) from error
    return config


def _as_written(overrides: Sequence[str]) -> list[str]:
    """Return overrides as they were written, without OmegaConf's replacement of ${...}."""
    words = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(words, list)
    return words
