"""Identities of runs: hashes of what was configured, not of where or how fast it ran."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def identity(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document's canonical JSON, in hexadecimal; the order of keys does not count."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def short(full: str) -> str:
    """Return an identity as folder names and tables show it."""
    return full[:12]
