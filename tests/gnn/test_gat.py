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
    check_golden("gat", engine, heads=4)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_equals_the_loops(heads: int) -> None:
    graph, x = random_graph(9, 0), normal(0, 9, 16, dtype=torch.float64)
    encoder = build("gat", heads=heads, dtype=torch.float64)
    module: Any = encoder.convolutions[0]
    projected = module.fc(x).view(9, heads, 16 // heads)
    left, right = module.attn_l[0], module.attn_r[0]
    expected = torch.empty(9, heads, 16 // heads, dtype=torch.float64)
    for i, row in enumerate(in_neighbours(graph)):
        for head in range(heads):
            scores = [left[head] @ projected[j, head] + right[head] @ projected[i, head] for j in row]
            attention = F.leaky_relu(torch.stack(scores), 0.2).softmax(dim=0)
            expected[i, head] = attention @ projected[row, head]
    torch.testing.assert_close(encoder.propagate(graph, x), expected.flatten(1) + module.bias)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, r"'gat': out_dim 16 is not a multiple of heads 3 \(heads x head width\)"),
        ({"heads": 0}, "graph encoder 'gat': heads is 0, but must be at least 1"),
        ({"heads": 32}, "'gat': out_dim 16 is not a multiple of heads 32"),
    ],
)
def test_wrong_options(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GNNS.build("gat", in_dim=16, out_dim=16, **options)
