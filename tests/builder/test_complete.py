from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from samples import nodes

from graphkd import BUILDERS


@given(st.integers(1, 40))
def test_everybody_is_joined_with_everybody(size: int) -> None:
    graph = BUILDERS.build("complete").build(nodes(size))
    assert graph.adjacency.all()
    assert graph.adjacency.shape == (size, size)
