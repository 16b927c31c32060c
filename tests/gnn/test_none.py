from __future__ import annotations

import pytest
import torch
from encoders import build
from samples import normal, random_graph

from graphkd import GNNS, UserError


def test_embeddings_stay_as_they_are() -> None:
    x = normal(0, 9, 16)
    encoder = build("none")
    assert torch.equal(encoder.propagate(random_graph(9, 0), x), x)
    torch.testing.assert_close(encoder(random_graph(9, 0), x), x / x.norm(dim=1, keepdim=True))


def test_nothing_is_trained() -> None:
    assert not list(build("none").parameters())


def test_the_width_stays() -> None:
    with pytest.raises(UserError, match="'none' keeps the width: in_dim 4 is not out_dim 8"):
        GNNS.build("none", in_dim=4, out_dim=8)
