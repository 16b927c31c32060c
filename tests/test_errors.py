"""How messages show what a user gave."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphkd.errors import brief


@given(
    st.recursive(
        st.integers() | st.text() | st.binary(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_a_value_is_shown_in_one_short_line(value: Any) -> None:
    shown = brief(value)
    assert len(shown) <= 120
    assert shown.isprintable()


@pytest.mark.parametrize("value", [10**5000, "x" * 10**6, list(range(10**6))], ids=["digits", "text", "list"])
def test_what_is_long_is_shown_shortly(value: Any) -> None:
    assert len(brief(value)) <= 120


def test_what_is_deep_is_shown_shortly() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert len(brief(value)) <= 120
    while value:  # else Python takes it apart by recursion
        value = value.pop()
