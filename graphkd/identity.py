"""Which run is which: a hash of what was asked for, not of where or how fast it ran."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def identity(document: Mapping[str, Any]) -> str:
    """SHA-256 of a document's canonical JSON, in hexadecimal.

    Two documents have the same identity exactly if they are equal, whatever the order of their keys.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def short(full: str) -> str:
    """Return an identity as folder names and tables show it."""
    return full[:12]
