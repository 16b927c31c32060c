from __future__ import annotations

import pytest
import torch
from samples import nodes

from graphkd import BUILDERS, UserError


@pytest.mark.parametrize("size", [1, 2, 7])
def test_every_sample_has_all_virtual_ones_and_itself(size: int) -> None:
    some = nodes(size)
    graph = BUILDERS.build("virtual").build(some)
    expected = {(source, target) for target in range(size) for source in (target, *range(size, 2 * size))}
    assert set(zip(graph.sources.tolist(), graph.targets.tolist(), strict=True)) == expected
    assert some.virtual is not None
    assert graph.support is not None
    assert torch.equal(graph.support, some.virtual.embedding)


def test_without_a_virtual_view_is_an_error() -> None:
    with pytest.raises(UserError, match="'virtual' needs the embedding of the nodes' virtual view"):
        BUILDERS.build("virtual").build(nodes(3, virtual=None))
