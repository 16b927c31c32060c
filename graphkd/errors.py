"""The one kind of error that is the user's own: shown in one line, never as a traceback."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Collection, Iterable
from typing import Any

_LONGEST = 120


class _Repr(reprlib.Repr):
    """Shows long integers too, which Python does not write out."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = _LONGEST

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if x.bit_length() < 10_000 else f"an integer of {x.bit_length()} bits"


_BRIEF = _Repr()


class UserError(ValueError):
    """A mistake in what the user asked for; its message names the culprit and the fix, in one line."""


def choices(names: Iterable[str]) -> str:
    """The valid names as they are shown in messages, sorted."""
    return ", ".join(sorted(names)) or "none"


def brief(value: Any) -> str:
    """A value as messages show it: as Python writes it, with the middle of what is long or deep left out."""
    text = _BRIEF.repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a hint `; did you mean 'x'?` for the closest valid name, or an empty string where none is near.

    Near is what differs by a slip of the fingers, and what has the name for its beginning or for one of its words.
    """
    if len(name) > _LONGEST:
        return ""
    asked, by_lower = name.lower(), {known.lower(): known for known in names}
    close = difflib.get_close_matches(asked, by_lower, n=1, cutoff=0.6)
    if not close and len(asked) >= 3:
        close = [known for known in sorted(by_lower) if known.startswith(asked) or asked in known.split("_")]
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""


def one_of(name: str, known: Collection[str], what: str) -> str:
    """Return a name that is among the known ones.

    Args:
        name: What the user asked for.
        known: The valid names.
        what: Opens the message and is followed by the name, for example "there is no suite".

    Raises:
        UserError: It is not; the message gives the nearest name and all choices.
    """
    if name not in known:
        raise UserError(f"{what} '{name}'{did_you_mean(name, known)} (choices: {choices(known)})")
    return name


def some(names: Collection[str], most: int = 6) -> str:
    """Return the names as part of a message, the first ones of many."""
    shown = sorted(names)[:most]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown) + more


def check(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless the condition holds."""
    if not condition:
        raise UserError(message)


def one_line(error: BaseException) -> str:
    """An exception of another library as part of a one-line message: its type and first line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0].strip()}" if text else type(error).__name__
