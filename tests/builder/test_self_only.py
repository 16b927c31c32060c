from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import nodes

from graphkd import BUILDERS


@given(st.integers(1, 40))
def test_everybody_stands_alone(size: int) -> None:
    graph = BUILDERS.build("self_only").build(nodes(size))
    assert torch.equal(graph.adjacency, torch.eye(size, dtype=torch.bool))
