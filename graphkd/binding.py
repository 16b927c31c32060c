"""Checks options against the constructor that takes them, before anything is built.

The signature is the schema: its parameter names, annotations and defaults. So nothing is declared twice,
and an option that no constructor takes can never be silently ignored.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, Union

from graphkd.errors import UserError, brief, check, choices, did_you_mean, some

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""A class without a constructor of its own shows its base's, and `torch.nn.Module` takes `*args, **kwargs`."""


@dataclass(frozen=True)
class Option:
    """One option of a constructor."""

    name: str
    annotation: Any
    default: Any = inspect.Parameter.empty

    @property
    def required(self) -> bool:
        """Whether the option has no default."""
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True)
class Bound:
    """The options of one part after checking: `all` with defaults filled in, `given` those that differ."""

    all: dict[str, Any]
    given: dict[str, Any]


def options_of(
    factory: Callable[..., Any],
    preset: Mapping[str, Any] | None = None,
    runtime: Collection[str] = (),
) -> dict[str, Option]:
    """Return the options of a constructor by name, in its order.

    Args:
        factory: A class or a function.
        preset: Defaults that replace those of the signature.
        runtime: Names that graphkd supplies itself, and that are no options therefore.
    """
    preset = preset or {}
    return {
        option.name: dataclasses.replace(option, default=preset[option.name]) if option.name in preset else option
        for option in _signature(factory)
        if option.name not in runtime
    }


@functools.cache
def _signature(factory: Callable[..., Any]) -> tuple[Option, ...]:
    function = factory.__init__ if inspect.isclass(factory) else factory
    hints = typing.get_type_hints(function)
    return tuple(
        Option(name, hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind not in _VARIADIC
    )


def flat(constructor: Callable[..., None]) -> Callable[..., None]:
    """Decorate a constructor so that the fields of its option groups are options of its own.

    A group is a parameter whose default is a dataclass: with `augmentation: Augmentation = Augmentation(flip=True)`,
    callers and configs say `flip=False`, and the constructor gets `Augmentation(flip=False)`. A field that the
    constructor has as a parameter of its own is left out.
    """
    hints, own = typing.get_type_hints(constructor), inspect.signature(constructor).parameters
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for name, parameter in own.items():
        group = parameter.default
        if not dataclasses.is_dataclass(group):
            parameters.append(parameter)
            continue
        groups[name] = group
        for option in options_of(type(group)).values():
            if option.name not in own:
                parameters.append(parameter.replace(name=option.name, default=getattr(group, option.name)))
                hints[option.name] = option.annotation
    signature = inspect.Signature(parameters)

    @functools.wraps(constructor)
    def construct(*args: Any, **options: Any) -> None:
        given = signature.bind(*args, **options).arguments
        for name, group in groups.items():
            fields = vars(group).keys() & given.keys() - own.keys()
            given[name] = dataclasses.replace(group, **{field: given.pop(field) for field in fields})
        constructor(**given)

    construct.__signature__ = signature  # type: ignore[attr-defined]
    construct.__annotations__ = hints
    return construct


def bind(
    options: Mapping[str, Any],
    known: Mapping[str, Option],
    part: str,
    holders: Callable[[str], Collection[str]] = lambda name: (),
) -> Bound:
    """Check names, types and presence of `options` against the `known` ones.

    Args:
        options: What the user gave, by name.
        known: The constructor's options (`options_of`).
        part: How messages call the part, for example "builder 'knn'".
        holders: Which parts of the same kind have an option of a name.

    Returns:
        Every option with its value, and separately those whose value differs from the default.

    Raises:
        UserError: An option is unknown, missing, or of a wrong type.
    """
    for name in options:
        check(not isinstance(name, bool), f'{part}: YAML reads a plain on or off as true or false; write "on" or "off"')
        if name not in known:
            raise UserError(f"{part} has {no_option(str(name), known, holders(str(name)))}")
    values: dict[str, Any] = {}
    for name, option in known.items():
        if name in options:
            values[name] = convert(options[name], option.annotation, f"{part}: option '{name}'")
        elif option.required:
            raise UserError(f"{part} needs the option '{name}'")
        else:
            values[name] = option.default
    given = {name: value for name, value in values.items() if not _same(value, known[name].default)}
    return Bound(values, given)


def no_option(name: str, known: Collection[str], holders: Collection[str] = ()) -> str:
    """Return what a message says of an unknown option: the one that was meant, and which other parts have it."""
    also = f"; {some(holders)} {'have' if len(holders) > 1 else 'has'} it" if holders else ""
    return f"no option {brief(name)}{did_you_mean(name, known)}{also} (its options: {choices(known)})"


def convert(value: Any, annotation: Any, what: str) -> Any:
    """Return the value in the annotated type: integers become floats, lists tuples and mappings dataclasses.

    Raises:
        UserError: The value does not fit the annotation; `what` opens the message.
    """
    for candidate in _alternatives(annotation):
        if inspect.isclass(candidate) and dataclasses.is_dataclass(candidate) and isinstance(value, Mapping):
            return candidate(**bind(value, options_of(candidate), what).all)
        fits, converted = _fit(value, candidate)
        if fits:
            return converted
    raise UserError(f"{what} is {brief(value)}, but must be {describe(annotation)}")


def fits(value: Any, annotation: Any) -> bool:
    """Return whether `convert` takes a value that is no mapping."""
    return any(_fit(value, candidate)[0] for candidate in _alternatives(annotation))


def describe(annotation: Any) -> str:
    """Return an annotation in a user's words, for messages and `graphkd list`."""
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    words: list[str] = []
    for candidate in _alternatives(annotation):
        origin, arguments = typing.get_origin(candidate), typing.get_args(candidate)
        if origin is Literal:
            words.append("one of " + ", ".join(str(argument) for argument in arguments))
        elif _is_sequence(origin):
            inner = [argument for argument in arguments if argument is not Ellipsis]
            count = f" of {len(inner)}" if len(inner) > 1 and Ellipsis not in arguments else ""
            words.append(f"a list{count} ({describe(inner[0])} each)" if inner else "a list")
        elif origin is not None or dataclasses.is_dataclass(candidate):
            words.append("a mapping")
        else:
            words.append(names.get(candidate, getattr(candidate, "__name__", str(candidate))))
    return " or ".join(words)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _is_sequence(origin: Any) -> bool:
    return inspect.isclass(origin) and issubclass(origin, Sequence)


def _fit(value: Any, candidate: Any) -> tuple[bool, Any]:
    origin, arguments = typing.get_origin(candidate), typing.get_args(candidate)
    if candidate is Any:
        return True, value
    if origin in (Union, types.UnionType):
        fitted = (_fit(value, alternative) for alternative in arguments)
        return next((fit for fit in fitted if fit[0]), (False, value))
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments), value
    if _is_sequence(origin):
        return _fit_sequence(value, arguments)
    if origin is not None:
        return isinstance(value, origin), value
    if candidate is float:
        return _fit_number(value)
    if candidate is int:
        fits_int = isinstance(value, Integral) and not isinstance(value, bool)  # NumPy's, too
        return fits_int, int(value) if fits_int else value
    return isinstance(value, candidate), value


def _fit_number(value: Any) -> tuple[bool, Any]:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False, value
    try:
        return True, float(value)
    except OverflowError:  # an integer beyond all floats
        return False, value


def _fit_sequence(value: Any, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return False, value
    inner = [argument for argument in arguments if argument is not Ellipsis]
    fixed_length = len(inner) if arguments and Ellipsis not in arguments and len(inner) > 1 else len(value)
    if not inner:
        return True, tuple(value)
    if len(value) != fixed_length:
        return False, value
    fitted = [_fit(item, inner[index % len(inner)]) for index, item in enumerate(value)]
    return all(fits for fits, _ in fitted), tuple(item for _, item in fitted)


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)
