from __future__ import annotations

from typing import Any

import pytest
import torch
from encoders import build, check_golden, in_neighbours
from samples import normal, random_graph

from graphkd import GNNS, UserError


@pytest.mark.parametrize("engine", ["dgl", "dense"])
def test_equals_what_dgl_recorded(engine: str) -> None:
    check_golden("tag", engine, hops=2)


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_equals_the_loops(hops: int) -> None:
    graph, x = random_graph(9, 0), normal(0, 9, 16, dtype=torch.float64)
    encoder = build("tag", hops=hops, dtype=torch.float64)
    neighbours = in_neighbours(graph)
    degree = [len(row) for row in neighbours]
    reached = [x]
    for _ in range(hops):
        rows = [sum(reached[-1][j] / (degree[i] * degree[j]) ** 0.5 for j in neighbours[i]) for i in range(len(x))]
        reached.append(torch.stack(rows))
    linear: Any = encoder.convolutions[0].lin
    torch.testing.assert_close(encoder.propagate(graph, x), linear(torch.cat(reached, dim=1)))


def test_wrong_options() -> None:
    with pytest.raises(UserError, match="graph encoder 'tag': hops is -1, but must be at least 0"):
        GNNS.build("tag", in_dim=4, out_dim=4, hops=-1)
