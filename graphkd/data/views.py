"""Views of the samples of a batch: the same images, augmented further or rotated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from graphkd.data.augment import Augmentation, batches_at_once
from graphkd.data.base import Batch, DatasetInfo
from graphkd.data.tensor import Normalisation
from graphkd.errors import UserError, check, one_of

View = Callable[[Batch, DatasetInfo, int], Tensor]
"""Makes a view of a batch as the data set yields it, float32 [B, C, H, H], given facts of the data and a seed."""

Views = Callable[[Sequence[str]], Tensor]
"""Returns views of a batch by their names, as `make_views` does."""

STRONG = Augmentation(rand_augment=2, rand_magnitude=10)
"""RandAugment of the strong view; which two operations a sample gets depends on the seed and its index alone."""


def _weak(batch: Batch, data: DatasetInfo, seed: int) -> Tensor:
    return batch.images


def _strong(batch: Batch, data: DatasetInfo, seed: int) -> Tensor:
    """Apply RandAugment to the pixels behind the normalised images."""
    assert data.mean is not None
    assert data.std is not None
    normalisation = Normalisation.of(data.mean, data.std, data.in_channels).to(batch.images.device)
    return normalisation(STRONG(normalisation.pixels(batch.images), batch.indices, seed))


def _rotated(turns: int, batch: Batch, data: DatasetInfo, seed: int) -> Tensor:
    return torch.rot90(batch.images, turns, (2, 3))


VIEWS: dict[str, View] = {
    "weak": _weak,
    "strong": _strong,
    **{f"rotated_{90 * turns}": partial(_rotated, turns) for turns in (1, 2, 3)},
}
"""Views by name. "weak" is a batch as the data set yields it, "strong" that after RandAugment, and the others are it
rotated by so many degrees, counterclockwise. A batch with several views has them in this order."""


def in_order(views: Iterable[str]) -> tuple[str, ...]:
    """Return the different views among some, in the order of `VIEWS`; raise a `UserError` if there is no such view."""
    places = list(VIEWS)
    return tuple(sorted({one_of(view, VIEWS, "there is no view") for view in views}, key=places.index))


def check_views(views: Iterable[str], data: DatasetInfo) -> None:
    """Check that data have these views.

    Raises:
        UserError: There is no such view, or RandAugment cannot be applied to the data.
    """
    if "strong" not in in_order(views):
        return
    others = "choose views of weak, rotated_90, rotated_180, rotated_270"
    if data.mean is None or data.std is None:
        raise UserError(f"the view 'strong' needs the mean and std of the data set, which does not say them; {others}")
    channels = data.in_channels
    check(
        channels in (1, 3), f"the view 'strong' is for images of 1 or 3 channels, but these have {channels}; {others}"
    )


def make_views(views: Sequence[str], batch: Batch, data: DatasetInfo, seed: Callable[[str], int]) -> Tensor:
    """Return views of a batch, float32 [views x B, C, H, H]: all first views, then all second ones.

    Args:
        views: Their names.
        batch: A batch as the data set yields it.
        data: Facts of the data set.
        seed: Returns the seed of a view by its name; one an epoch.
    """
    return _Window([batch], data, seed).views(0, views)


def with_views(
    batches: Iterator[Batch], data: DatasetInfo, seed: Callable[[str], int]
) -> Iterator[tuple[Batch, Views]]:
    """Yield each batch, and what makes its views.

    Small batches are read ahead, and a view is made for several of them at once: RandAugment of a batch of 64 small
    images is a hundred calls that take longer than their arithmetic.

    Args:
        batches: A pass over the data.
        data: Facts of the data set.
        seed: Returns the seed of a view by its name.
    """
    for batch in batches:
        ahead = islice(batches, batches_at_once(batch.images.shape) - 1)
        window = _Window([batch, *ahead], data, seed)
        for place, each in enumerate(window.batches):
            yield each, partial(window.views, place)


class _Window:
    """Batches that follow each other; each view is made for all of them when it is first wanted."""

    def __init__(self, batches: Sequence[Batch], data: DatasetInfo, seed: Callable[[str], int]) -> None:
        self.batches, self._data, self._seed = batches, data, seed
        self._made: dict[str, Sequence[Tensor]] = {}

    def views(self, place: int, names: Sequence[str]) -> Tensor:
        made = [self._view(name)[place] for name in names]
        return made[0] if len(made) == 1 else torch.cat(made)

    def _view(self, name: str) -> Sequence[Tensor]:
        if name not in self._made:
            whole = Batch(*map(torch.cat, zip(*self.batches, strict=True)))
            view = VIEWS[name](whole, self._data, self._seed(name))
            self._made[name] = torch.split(view, [len(batch.images) for batch in self.batches])
        return self._made[name]
