"""The one kind of error that is the user's own: shown in one line, never as a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user asked for; its message names the culprit and the fix, in one line."""


def choices(names: Iterable[str]) -> str:
    """The valid names as they are shown in messages, sorted."""
    return ", ".join(sorted(names)) or "none"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint `; did you mean 'x'?` for the closest valid name, or an empty string."""
    by_lower = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""


def check(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless the condition holds."""
    if not condition:
        raise UserError(message)


def one_line(error: BaseException) -> str:
    """An exception of another library as part of a one-line message: its type and first line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0].strip()}" if text else type(error).__name__
