from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from encoders import build, check_golden, in_neighbours
from samples import normal, random_graph

from graphkd import GNNS, UserError


@pytest.mark.parametrize("engine", ["dgl", "dense"])
def test_equals_what_dgl_recorded(engine: str) -> None:
    check_golden("sage", engine, aggregator="mean")


def test_pool_equals_the_loops() -> None:
    graph, x = random_graph(9, 0), normal(0, 9, 16, dtype=torch.float64)
    encoder = build("sage", aggregator="pool", dtype=torch.float64)
    module: Any = encoder.convolutions[0]
    pooled = F.relu(module.fc_pool(x))
    largest = torch.stack([pooled[row].max(dim=0).values for row in in_neighbours(graph)])
    torch.testing.assert_close(encoder.propagate(graph, x), module.fc_self(x) + module.fc_neigh(largest))


@pytest.mark.parametrize("loops", [True, False])
def test_gcn_equals_the_loops(loops: bool) -> None:
    graph, x = random_graph(9, 0, loops=loops), normal(0, 9, 16, dtype=torch.float64)
    encoder = build("sage", aggregator="gcn", dtype=torch.float64)
    module: Any = encoder.convolutions[0]
    means = torch.stack([x[[i, *row]].mean(dim=0) for i, row in enumerate(in_neighbours(graph))])
    torch.testing.assert_close(encoder.propagate(graph, x), module.fc_neigh(means) + module.bias)


def test_wrong_options() -> None:
    with pytest.raises(UserError, match="option 'aggregator' is 'lstm', but must be one of mean, pool, gcn"):
        GNNS.build("sage", in_dim=4, out_dim=4, aggregator="lstm")
