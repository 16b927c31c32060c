from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphkd.identity import identity, short

PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())
DOCUMENTS = st.dictionaries(
    st.text(), st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
)


def reordered(value: Any) -> Any:
    """The same document with every mapping's keys the other way round."""
    if isinstance(value, dict):
        return {key: reordered(item) for key, item in reversed(value.items())}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(DOCUMENTS)
def test_the_order_of_keys_does_not_count(document: dict[str, Any]) -> None:
    assert identity(reordered(document)) == identity(document)


@given(DOCUMENTS, st.text(), PLAIN)
def test_every_value_counts(document: dict[str, Any], key: str, value: Any) -> None:
    document.pop(key, None)
    assert identity({**document, key: value}) != identity(document)


def test_the_order_of_lists_counts() -> None:
    assert identity({"widths": [1, 2]}) != identity({"widths": [2, 1]})


def test_is_the_hash_of_canonical_json() -> None:
    """Who changes this makes every user's finished runs unknown."""
    text = '{"a":[1,null,true],"b":{"c":0.1,"d":"\\u00e9"}}'
    assert identity({"b": {"d": "é", "c": 0.1}, "a": [1, None, True]}) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_cannot_hold_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        identity({"lr": value})


def test_a_short_identity_opens_the_long_one() -> None:
    full = identity({})
    assert len(full) == 64
    assert full.startswith(short(full))
    assert len(short(full)) == 12
