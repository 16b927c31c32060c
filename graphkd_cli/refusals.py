"""What Hydra refuses, in one line that names the culprit and the nearest valid name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from graphkd.binding import no_option
from graphkd.errors import UserError, choices, did_you_mean
from graphkd_cli.hydra_internals import Hydra
from graphkd_cli.overrides import NAMED, split

WITHOUT_NODE = {
    "logger": "no logger is chosen; choose one too",
    **dict.fromkeys(("pair", "experiment", "setting"), "it is a choice that has no options of its own"),
}
"""Groups that may have no node in the config, and why an option of theirs is refused then."""
REFUSALS = (HydraException, OmegaConfBaseException, YAMLError, ValueError, RecursionError)
"""Errors that Hydra raises on a wrong config or override."""


def call(function: Callable[[], Any]) -> Any:
    """Call into Hydra and turn its errors into `UserError`s.

    Raises:
        UserError: Hydra or OmegaConf refuses something.
    """
    try:
        return function()
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UserError(reason(error)) from error


def reason(error: BaseException) -> str:
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


def missing(error: MissingConfigException) -> str:
    """Return a message on a choice such as `builder=knnn`, with the configs of its group."""
    if not error.missing_cfg_file:
        return reason(error)
    group, _, name = error.missing_cfg_file.rpartition("/")
    if not error.options:
        return f"there is no config '{error.missing_cfg_file}'"
    hint = did_you_mean(name, error.options)
    plugin = f"; a plug-in's: plugins=[MODULE] '{group}={{name: {name}}}'" if NAMED.match(group) else ""
    return f"{group} has no config '{name}'{hint} (choices: {choices(error.options)}{plugin})"


def explain(hydra: Hydra, config_name: str, overrides: list[str], error: Exception) -> str:
    """Return a message that names the override that Hydra refused, and the closest valid key."""
    if isinstance(error, UserError):
        return str(error)
    culprit = _culprit(hydra, config_name, overrides)
    if culprit is None:  # the fault is in a file, not in an override
        return f"the config '{config_name}' cannot be composed: {reason(error)}"
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
        return f"the override '{word}' cannot be applied: {reason(error)}"
    if NAMED.match(parent) and "name" in known:
        from graphkd.run.parse import registry_at

        registry = registry_at(parent)
        holders = [] if registry is None else registry.holders(name)
        return f"'{word}': {parent} '{node.name}' has {no_option(name, known, holders)}"
    if name in WITHOUT_NODE and not parent:
        names = choices(hydra.config_loader.get_group_options(name))
        return f"'{word}': {WITHOUT_NODE[name]}; {name}=NAME (choices: {names})"
    if not parent:
        known = sorted({*known, *WITHOUT_NODE})
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
