"""Order of an epoch's samples."""

from __future__ import annotations

import torch
from torch import Tensor


def epoch_order(labels: Tensor, samples_per_class: int, generator: torch.Generator) -> Tensor:
    """Return a random order of all samples in which samples of a class follow each other in groups.

    Each class is cut into groups at random, and the groups of all classes are shuffled.

    Args:
        labels: Classes, int64 [N].
        samples_per_class: Size of a group; the last one of a class may be smaller. 1 for no groups.
        generator: Draws the order.

    Returns:
        A permutation of 0 .. N - 1, int64 [N].
    """
    order = torch.randperm(len(labels), generator=generator)
    if samples_per_class == 1:
        return order
    by_class = order[labels[order].argsort(stable=True)]
    sizes = labels.bincount().tolist()
    groups = [group for members in by_class.split(sizes) for group in members.split(samples_per_class)]
    return torch.cat([groups[place] for place in torch.randperm(len(groups), generator=generator).tolist()])
