from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphkd.engine.order import epoch_order
from graphkd.engine.seeding import generator

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=40).map(torch.tensor)


def order(labels: Tensor, samples_per_class: int, seed: int = 0) -> Tensor:
    return epoch_order(labels, samples_per_class, generator(seed, "order"))


def test_without_groups_it_is_one_permutation() -> None:
    assert torch.equal(order(torch.zeros(9).long(), 1), torch.randperm(9, generator=generator(0, "order")))


@given(LABELS, st.integers(2, 6), st.integers(0, 99))
def test_whole_groups_come_first_and_what_is_left_last(labels: Tensor, size: int, seed: int) -> None:
    found = order(labels, size, seed)
    assert torch.equal(found.sort().values, torch.arange(len(labels)))
    counts = labels.bincount()
    whole, left = labels[found].tensor_split([int((counts // size).sum()) * size])
    groups = whole.view(-1, size)
    assert (groups == groups[:, :1]).all()
    assert torch.equal(groups[:, 0].bincount(minlength=len(counts)), counts // size)
    classes, lengths = left.unique_consecutive(return_counts=True)
    assert dict(zip(classes.tolist(), lengths.tolist(), strict=True)) == {
        label: count % size for label, count in enumerate(counts.tolist()) if count % size
    }


def test_groups_and_their_order_differ_between_epochs() -> None:
    labels = torch.arange(10).repeat(20)
    first, second = order(labels, 4, 0).view(-1, 4), order(labels, 4, 1).view(-1, 4)
    assert not torch.equal(labels[first[:, 0]], labels[second[:, 0]])
    assert {frozenset(group.tolist()) for group in first} != {frozenset(group.tolist()) for group in second}
    assert torch.equal(order(labels, 4, 0).view(-1, 4), first)
