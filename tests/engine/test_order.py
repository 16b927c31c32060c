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
def test_groups_are_whole_and_of_one_class(labels: Tensor, size: int, seed: int) -> None:
    """The order can be read as groups: of each class as many whole ones as it has, and one of what is left over."""
    found = order(labels, size, seed)
    assert torch.equal(found.sort().values, torch.arange(len(labels)))
    left = {label: [size] * (count // size) + [count % size] * (count % size > 0)
            for label, count in enumerate(labels.bincount().tolist())}  # fmt: skip
    assert _reads_as(labels[found].tolist(), left)


def _reads_as(row: list[int], left: dict[int, list[int]]) -> bool:
    """Whether a row of labels can be cut into these groups, a list of sizes a class, in some order."""
    if not row:
        return not any(left.values())
    run_length = next((place for place, label in enumerate(row) if label != row[0]), len(row))
    return any(
        size <= run_length and _reads_as(row[size:], {**left, row[0]: _without(left[row[0]], size)})
        for size in set(left[row[0]])
    )


def _without(sizes: list[int], size: int) -> list[int]:
    rest = list(sizes)
    rest.remove(size)
    return rest


def test_groups_and_their_order_differ_between_epochs() -> None:
    labels = torch.arange(10).repeat(20)
    first, second = order(labels, 4, 0).view(-1, 4), order(labels, 4, 1).view(-1, 4)
    assert not torch.equal(labels[first[:, 0]], labels[second[:, 0]])
    assert {frozenset(group.tolist()) for group in first} != {frozenset(group.tolist()) for group in second}
    assert torch.equal(order(labels, 4, 0).view(-1, 4), first)
