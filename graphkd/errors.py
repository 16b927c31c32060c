"""Mistakes of the user, which are shown in one line and never as a traceback."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Collection, Iterable
from typing import Any

_LONGEST = 120


class _Repr(reprlib.Repr):
    """Shows very long integers too, which Python refuses to convert to text."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = _LONGEST

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if x.bit_length() < 10_000 else f"an integer of {x.bit_length()} bits"


_BRIEF = _Repr()


class UserError(ValueError):
    """A mistake of the user; its one-line message names what was wrong and the fix."""


def choices(names: Iterable[str]) -> str:
    """Return the valid names for a message, sorted."""
    return ", ".join(sorted(names)) or "none"


def brief(value: Any) -> str:
    """Return the `repr` of a value for a message, without the middle of what is long or deep."""
    text = _BRIEF.repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a hint `; did you mean 'x'?` for the closest valid name, or an empty string if none is close.

    A close name differs by a typing error, begins with the given one, or has it as one of its words.
    """
    if len(name) > _LONGEST:
        return ""
    asked, by_lower = name.lower(), {known.lower(): known for known in names}
    close = difflib.get_close_matches(asked, by_lower, n=1, cutoff=0.6)
    if not close and len(asked) >= 3:
        close = [known for known in sorted(by_lower) if known.startswith(asked) or asked in known.split("_")]
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""


def one_of(name: str, known: Collection[str], what: str) -> str:
    """Return the name if it is among the known ones.

    Args:
        name: What the user asked for.
        known: The valid names.
        what: Beginning of the message, in front of the name, for example "there is no suite".

    Raises:
        UserError: It is not; the message gives the closest name and all choices.
    """
    if name not in known:
        raise UserError(f"{what} '{name}'{did_you_mean(name, known)} (choices: {choices(known)})")
    return name


def counted(number: int, what: str, plural: str = "s") -> str:
    """Return a number and what it counts, as "1 run" or "2 runs"; `plural` is what the plural adds."""
    return f"{number} {what}{'' if number == 1 else plural}"


def some(names: Collection[str], most: int = 6) -> str:
    """Return names for a message, sorted, at most so many."""
    shown = sorted(names)[:most]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown) + more


def check(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless the condition holds."""
    if not condition:
        raise UserError(message)


def one_line(error: BaseException) -> str:
    """Return the type and first line of an exception, for a one-line message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0].strip()}" if text else type(error).__name__
