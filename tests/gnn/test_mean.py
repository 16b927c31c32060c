from __future__ import annotations

import pytest
import torch
from encoders import build, in_neighbours
from samples import normal, random_graph

from graphkd import GNNS, UserError


@pytest.mark.parametrize("engine", ["dgl", "dense"])
@pytest.mark.parametrize("layers", [1, 2])
def test_equals_the_loops(engine: str, layers: int) -> None:
    graph, x = random_graph(9, 0), normal(0, 9, 16, dtype=torch.float64)
    encoder = build("mean", engine=engine, layers=layers, dtype=torch.float64)
    expected = x
    for layer in range(layers):
        x_in = expected.clamp(min=0) if layer else expected
        expected = torch.stack([x_in[row].mean(dim=0) for row in in_neighbours(graph)])
    torch.testing.assert_close(encoder.propagate(graph, x), expected)


def test_nothing_is_trained() -> None:
    assert not list(build("mean").parameters())


def test_the_width_stays() -> None:
    with pytest.raises(UserError, match="'mean' keeps the width: in_dim 4 is not out_dim 8"):
        GNNS.build("mean", in_dim=4, out_dim=8)
