"""Overrides as users type them: parsed by Hydra's grammar, with text unquoted, and applied in any order."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from os.path import expanduser
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, QuotedString
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from graphkd.ablation import quoted
from graphkd.errors import UserError, brief, check
from graphkd_cli.hydra_internals import apply_overrides, swept_choices, unreadable_position

NAMED = re.compile(
    r"(teacher|student|data|builder|gnn|teacher_gnn|objective\.[^.]+(\.(builder|gnn|teacher_gnn|relation|discrepancy))?)$"
)
"""Keys at which a name may stand for a part: NAME is short for {name: NAME}."""
HYDRAS = re.compile(r"hydra[./](launcher|sweeper)\b")
"""The Hydra settings that graphkd accepts; output, logs and folders are fixed."""
_COMMA = r",(?=(?:[^']*'[^']*')*[^']*$)"
"""A comma outside quotes."""
_UNREADABLE = (HydraException, ValueError, RecursionError)
"""Errors of the grammar; ValueError and RecursionError for huge numbers and deep lists."""


def check_form(words: Sequence[str]) -> None:
    """Check that words have the form of overrides.

    Raises:
        UserError: A word does not; the message names it.
    """
    for word in words:
        form = "=" in word[1:] or word.startswith("~")
        example = "overrides look like key=value without spaces around '=', for example builder=knn"
        check(form, f"{brief(word)} is not an override; {example}")


def split_words(words: Sequence[str], exists: Callable[[str], bool] = lambda _: False) -> tuple[list[str], list[str]]:
    """Split words into names and overrides; a word that exists, such as a folder `tau=0.7`, is a name."""
    names = [word for word in words if exists(word) or ("=" not in word and not word.startswith("~"))]
    return names, [word for word in words if word not in names]


def parse(words: Sequence[str]) -> list[Override]:
    """Parse overrides with Hydra's grammar.

    Raises:
        UserError: An override cannot be parsed; the message says how to type it.
    """
    check_form(words)
    parsed = []
    for word in words:
        try:
            parsed.append(OverridesParser.create().parse_override(word))
        except _UNREADABLE as error:
            raise UserError(_unreadable(word, error)) from error
    return parsed


def in_grammar(words: Sequence[str], sweeps: bool = False) -> list[str]:
    """Return overrides in Hydra's grammar, with quotes added around text; with `sweeps`, commas separate values.

    Raises:
        UserError: A word is not an override, or sets something of Hydra's that is fixed.
    """
    check_form(words)
    for word in words:
        key = split(word)[0]
        allowed = not re.match(r"hydra\b", key) or HYDRAS.match(key) is not None
        check(allowed, f"{brief(word)}: of Hydra's own settings, only launcher and sweeper can be set")
    return [_in_grammar(word, sweeps) for word in words]


def split(word: str) -> tuple[str, str]:
    """Return an override's key, without + or ~, and its value as written."""
    key, _, value = word.lstrip("+~").partition("=")
    return key, value


def key_of(override: Override) -> str:
    """Return what an override changes: a dotted key or a group."""
    return str(override.key_or_group)


def split_hydra(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the overrides of Hydra's own nodes (launchers, for example), and the others."""
    own = [override for override in overrides if override.lstrip("+~").startswith("hydra")]
    return own, [override for override in overrides if override not in own]


def depth(override: Override) -> tuple[int, str, str]:
    """Return the sort key of an override: overrides below a node come after the node's."""
    key = key_of(override)
    return key.count("."), key, override.package or ""


def apply(config: DictConfig, override: Override) -> None:
    """Apply an override to a config in place.

    A mapping replaces a node, where Hydra would merge the two, and accepts further overrides: names are checked when
    it is bound.
    """
    if override.type != OverrideType.CHANGE or not isinstance(override.value(), dict):
        apply_overrides([override], config)
        return
    try:
        _open(config, str(override.key_or_group), override.value())
    except OmegaConfBaseException as error:
        raise ConfigCompositionException(f"Error in the override {override.input_line}") from error


def make_way(config: DictConfig, override: Override, before: Sequence[Override]) -> None:
    """Prepare a config for an override below a node: a name on its path becomes a mapping with that name.

    `before` are the overrides of shorter paths, already applied.

    Raises:
        UserError: A node on the path is null, or was removed by another override.
    """
    word = override.input_line
    nodes = str(override.key_or_group).split(".")[:-1]
    for count, last in enumerate(nodes):
        place = ".".join(nodes[: count + 1])
        parent = OmegaConf.select(config, ".".join(nodes[:count])) if count else config
        node = OmegaConf.select(config, place)
        is_shared = node == "shared" and place.endswith("teacher_gnn")
        is_null = node is None and isinstance(parent, DictConfig) and last in parent and NAMED.match(place)
        if is_shared or is_null:
            name = OmegaConf.select(config, f"{place.rpartition('.')[2].removeprefix('teacher_')}.name") or "NAME"
            without = f"{place} is {'shared' if is_shared else 'null'} and so has no options"
            raise UserError(f"'{word}': {without}; name it too, for example {place}={name}")
        if isinstance(node, str) and NAMED.match(place):
            _open(config, place, {"name": node})
        elif not isinstance(node, Container):
            for other in before:
                gone = f"{place}.".startswith(f"{other.key_or_group}.")
                check(not gone, f"'{word}': there is no {place} after '{other.input_line}'")


def _open(config: DictConfig, key: str, value: Any) -> None:
    OmegaConf.update(config, key, value, merge=False)
    OmegaConf.set_struct(OmegaConf.select(config, key), False)


def _unreadable(word: str, error: BaseException) -> str:
    """Return a message on a word that cannot be parsed, and how to type it."""
    key = split(word)[0]
    if _tried(f"{key}=1") is None:
        return f"the override {brief(word)} cannot be read: {brief(key)} is not an option's path, such as builder.k"
    position = unreadable_position(error)
    sign = "" if position is None else f" at {word[position]!r}"
    return f"the override {brief(word)} cannot be read{sign}{_wanted(key, word)}"


def _wanted(key: str, word: str) -> str:
    """Return what an option is, or how to type it if no loaded part knows it."""
    from graphkd.binding import describe
    from graphkd.run.parse import annotations_at

    kinds = dict.fromkeys(kind for each in annotations_at(key) for kind in describe(each).split(" or "))
    if kinds or NAMED.match(key):
        return f"; {key} is {' or '.join(kinds) or 'a name or {name: NAME, OPTION: VALUE}'}"
    start, _, value = word.partition("=")
    typed = shlex.quote(f"{start}={quoted(value)}") if re.search(r'["$`!]', word) else f'"{start}={quoted(value)}"'
    return f"; type text as {typed}" if len(typed) < 200 else ""


def _in_grammar(word: str, sweeps: bool) -> str:
    start, equals, text = word.partition("=")
    if not equals or not _is_text(word, text, sweeps):
        return word
    apart = _COMMA if text.count("'") % 2 == 0 else ","
    values = re.split(apart, text) if sweeps else [text]
    return f"{start}={','.join(_quoted(value.strip()) for value in values)}"


def _tried(word: str) -> Override | None:
    """Return an override, or None if it cannot be parsed."""
    try:
        override: Override = OverridesParser.create().parse_override(word)
    except _UNREADABLE:
        return None
    return override


def _is_text(word: str, text: str, sweeps: bool) -> bool:
    """Return whether an override's value is text although the grammar refuses it or reads something else."""
    override = _tried(word)
    read: list[Any] | None = []
    if override is not None and not override.is_sweep_override():
        read = [override.value()]
    elif override is not None and sweeps:
        read = swept_choices(override)
    if read is None:
        return False
    others = [value for value in read if not isinstance(value, str | QuotedString | None)]
    if read and not others:
        return False

    from graphkd.binding import fits
    from graphkd.run.parse import annotations_at

    kinds = annotations_at(split(word)[0])
    in_brackets = text.startswith("[") and any(fits([], kind) for kind in kinds)
    takes_texts = any(fits(text, kind) for kind in kinds)
    return takes_texts and not in_brackets and not any(fits(value, kind) for value in others for kind in kinds)


def _quoted(text: str) -> str:
    override = _tried(f"text={text}")
    is_text = override is not None and not override.is_sweep_override() and isinstance(override.value(), str)
    return text if is_text else quoted(expanduser(text))
