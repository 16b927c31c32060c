"""Order of an epoch's samples."""

from __future__ import annotations

import torch
from torch import Tensor


def epoch_order(labels: Tensor, samples_per_class: int, generator: torch.Generator) -> Tensor:
    """Return a random order of all samples in which samples of a class follow each other in groups.

    Each class is cut into groups at random, and the groups of all classes are shuffled. What is left of a class after
    its last whole group comes at the end, so that batches of a multiple of the groups' size cut none.

    Args:
        labels: Classes, int64 [N].
        samples_per_class: Size of a group. 1 for no groups.
        generator: Draws the order.

    Returns:
        A permutation of 0 .. N - 1, int64 [N].
    """
    order = torch.randperm(len(labels), generator=generator)
    if samples_per_class == 1:
        return order
    by_class = order[labels[order].argsort(stable=True)]
    classes = torch.split(by_class, labels.bincount().tolist())
    groups = [group for members in classes for group in torch.split(members, samples_per_class)]
    shuffled = [groups[place] for place in torch.randperm(len(groups), generator=generator).tolist()]
    return torch.cat(sorted(shuffled, key=lambda group: len(group) < samples_per_class))
