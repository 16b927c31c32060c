"""Identities of runs: hashes of what was configured, not of where or how fast it ran."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_looks: ContextVar[dict[str, Any] | None] = ContextVar("looks", default=None)


def identity(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document's canonical JSON, in hexadecimal; the order of keys does not count."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def short(full: str) -> str:
    """Return an identity as folder names and tables show it."""
    return full[:12]


@contextmanager
def one_look() -> Iterator[None]:
    """Look at the files of each data set once in this context, however many runs use them."""
    outer = _looks.get()
    token = _looks.set({} if outer is None else outer)
    try:
        yield
    finally:
        _looks.reset(token)


def looked_at(data: str, look: Callable[[], Any]) -> Any:
    """Return what `look` finds in the files of a data set, or found earlier in the same `one_look`."""
    looks = _looks.get()
    if looks is None:
        return look()
    if data not in looks:
        looks[data] = look()
    return looks[data]
