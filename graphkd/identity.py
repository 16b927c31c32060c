"""Identities of runs: hashes of what was configured, not of where or how fast it ran."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_fingerprints: ContextVar[dict[str, Any] | None] = ContextVar("fingerprints", default=None)


def identity(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document's canonical JSON, in hexadecimal; the order of keys does not count."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def short(full: str) -> str:
    """Return an identity as folder names and tables show it."""
    return full[:12]


@contextmanager
def cached_fingerprints() -> Iterator[None]:
    """Take the fingerprint of each data set's files once in this context, however many runs use them."""
    outer = _fingerprints.get()
    token = _fingerprints.set({} if outer is None else outer)
    try:
        yield
    finally:
        _fingerprints.reset(token)


def cached_fingerprint(data: str, take: Callable[[], Any]) -> Any:
    """Return the fingerprint of a data set's files that `take` gives, or gave before in `cached_fingerprints`."""
    known = _fingerprints.get()
    if known is None:
        return take()
    if data not in known:
        known[data] = take()
    return known[data]
