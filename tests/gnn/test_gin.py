from __future__ import annotations

from typing import Any

import pytest
import torch
from encoders import build, check_golden, in_neighbours
from samples import normal, random_graph

from graphkd import GNNS, UserError


@pytest.mark.parametrize("engine", ["dgl", "dense"])
def test_equals_what_dgl_recorded(engine: str) -> None:
    check_golden("gin", engine, aggregator="sum", learn_eps=True)


@pytest.mark.parametrize("aggregator", ["sum", "mean", "max"])
def test_equals_the_loops(aggregator: str) -> None:
    graph, x = random_graph(9, 0), normal(0, 9, 16, dtype=torch.float64)
    encoder = build("gin", aggregator=aggregator, learn_eps=True, dtype=torch.float64)
    module: Any = encoder.convolutions[0]
    put_together: Any = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax}[aggregator]
    aggregate = torch.stack([put_together(x[row], dim=0) for row in in_neighbours(graph)])
    torch.testing.assert_close(encoder.propagate(graph, x), module.apply_func((1 + module.eps) * x + aggregate))


@pytest.mark.parametrize("learn_eps", [True, False])
def test_eps_starts_at_zero_and_is_trained_on_request(learn_eps: bool) -> None:
    module: Any = GNNS.build("gin", in_dim=4, out_dim=4, learn_eps=learn_eps).convolutions[0]
    assert module.eps == 0
    assert ("eps" in dict(module.named_parameters())) == learn_eps


def test_wrong_options() -> None:
    with pytest.raises(UserError, match="option 'aggregator' is 'pool', but must be one of sum, mean, max"):
        GNNS.build("gin", in_dim=4, out_dim=4, aggregator="pool")
