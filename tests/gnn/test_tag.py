from __future__ import annotations

from typing import Any

import pytest
import torch
from encoders import build, check_golden, in_neighbours
from samples import normal, random_graph

from graphkd import GNNS, BatchGraph, UserError


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


@pytest.mark.parametrize("engine", ["dgl", "dense"])
@pytest.mark.parametrize("hops", [1, 2])
def test_neighbours_among_support_rows_weigh_as_much_as_oneself(engine: str, hops: int) -> None:
    own, rows = torch.arange(4), torch.arange(4, 16).reshape(4, 3)
    graph = BatchGraph.from_neighbours(torch.cat([own[:, None], rows], dim=1), support=normal(1, 12, 16))
    x = normal(0, 4, 16)
    encoder = build("tag", hops=hops, engine=engine)
    assert graph.support is not None
    reached = [x]
    for _ in range(hops):
        reached.append((reached[-1] + graph.support.reshape(4, 3, 16).sum(1)) / 4)
    linear: Any = encoder.convolutions[0].lin
    torch.testing.assert_close(encoder.propagate(graph, x), linear(torch.cat(reached, dim=1)))


def test_wrong_options() -> None:
    with pytest.raises(UserError, match="graph encoder 'tag': hops is -1, but must be at least 0"):
        GNNS.build("tag", in_dim=4, out_dim=4, hops=-1)
