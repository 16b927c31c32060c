from __future__ import annotations

from typing import Any

import pytest
import torch
from encoders import build, check_golden, in_neighbours
from samples import normal, random_graph

from graphkd import GNNS, UserError


@pytest.mark.parametrize("engine", ["dgl", "dense"])
def test_equals_what_dgl_recorded(engine: str) -> None:
    check_golden("gcn", engine)


def test_equals_the_loops() -> None:
    graph, x = random_graph(9, 0), normal(0, 9, 16, dtype=torch.float64)
    encoder = build("gcn", dtype=torch.float64)
    module: Any = encoder.convolutions[0]
    neighbours = in_neighbours(graph)
    out_degree = graph.adjacency.sum(dim=0).tolist()
    sums = [sum(x[j] / (len(row) * out_degree[j]) ** 0.5 for j in row) for row in neighbours]
    expected = torch.stack(sums) @ module.weight + module.bias
    torch.testing.assert_close(encoder.propagate(graph, x), expected)


def test_wrong_options() -> None:
    with pytest.raises(UserError, match="graph encoder 'gcn' has no option 'heads'"):
        GNNS.build("gcn", in_dim=4, out_dim=4, heads=2)
