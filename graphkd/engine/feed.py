"""Batches and teacher outputs, computed once for all training loops at the same position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from graphkd.batch import NetworkOutput
from graphkd.data import Batch, Dataset
from graphkd.data.views import Views, with_views
from graphkd.engine.clock import Span
from graphkd.engine.options import TrainerOptions
from graphkd.engine.order import epoch_order
from graphkd.engine.ranks import Ranks
from graphkd.engine.seeding import derive, generator
from graphkd.model import Network

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Request:
    """Request of a training loop for its next batch.

    Attributes:
        stage: Name of the objective's pre-training stage; None in the student's own training.
        epoch: Counted from 0.
        batch: Index of the batch in the epoch, from 0.
        views: Names of the views of each sample.
        with_teacher: Whether the teacher's output is needed.
        with_maps: Whether several devices must exchange feature maps.
    """

    stage: str | None
    epoch: int
    batch: int
    views: tuple[str, ...] = ("weak",)
    with_teacher: bool = False
    with_maps: bool = True

    @property
    def place(self) -> tuple[bool, str, int, int]:
        """Position in the stream of batches; sorts from the furthest behind to the furthest ahead, stages first."""
        return self.stage is None, self.stage or "", self.epoch, self.batch

    @property
    def outputs(self) -> tuple[tuple[str, ...], bool]:
        """What is computed for it at its place; the maps come with it in any case."""
        return self.views, self.with_teacher


class Fed(NamedTuple):
    """Answer to a `Request`.

    Attributes:
        images: This device's images, in all views, float32 [views x n, C, H, W].
        labels: Classes of the whole batch, int64 [B].
        indices: Positions of the whole batch in the training split, int64 [B].
        teacher: The teacher's output for the whole batch, if requested.
        costs: Name and time of each computation, and this loop's share of it.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    teacher: NetworkOutput | None
    costs: list[tuple[str, Span, float]]


class Feed:
    """Source of batches and teacher outputs for loops that share data, seed, batch size and teacher.

    The last batch is kept until another one is requested, so that loops at the same position share it.
    """

    def __init__(
        self, options: TrainerOptions, fabric: Fabric, dataset: Dataset, teacher: Network | None, seed: int
    ) -> None:
        """Move the teacher to the device and freeze it.

        Args:
            options: Batch size, memory format, compilation and the teacher's precision.
            fabric: The devices.
            dataset: The training data.
            teacher: The trained teacher, if any loop needs it.
            seed: Fixes the order of the samples and their augmentation.
        """
        self.options, self.device, self.dataset, self.seed = options, fabric.device, dataset, seed
        self.ranks = Ranks(fabric)
        self.layout = torch.channels_last if options.channels_last else torch.contiguous_format
        self.teacher = teacher
        if teacher is not None:
            teacher.eval().requires_grad_(False).to(self.device).to(memory_format=self.layout)
            self._teach = torch.compile(teacher) if options.compile else teacher
        self._place: tuple[bool, str, int, int] | None = None
        self._batch: Batch
        self._cost: tuple[Span, float]
        self._views: Views
        self._batches: Iterator[tuple[Batch, Views]] = iter(())
        self._outputs: dict[tuple[tuple[str, ...], bool], tuple[Tensor, NetworkOutput | None, Span, float]] = {}

    def holds(self, request: Request) -> bool:
        """Return whether all that a loop requests has been computed."""
        return request.place == self._place and request.outputs in self._outputs

    def get(self, request: Request, waiting: Sequence[Request]) -> Fed:
        """Return the batch that a loop requests.

        Args:
            request: Its request.
            waiting: The current requests of all loops, this one included; those that need the same share its cost.
        """
        if request.place != self._place:
            self._advance(request, sum(other.place == request.place for other in waiting))
        key = request.outputs
        if key not in self._outputs:
            sharing = sum((other.place, other.outputs) == (request.place, key) for other in waiting)
            self._outputs[key] = self._output(request, sharing)
        images, teacher, span, share = self._outputs[key]
        costs = [("data", *self._cost), ("teacher", span, share)]
        return Fed(images, self._batch.labels, self._batch.indices, teacher, costs)

    def close(self) -> None:
        """End the pass over the data, with its workers, and forget its last batch."""
        self._place, self._batches = None, iter(())
        self._outputs.clear()

    def _advance(self, request: Request, sharing: int) -> None:
        """Load the batch of a request, by a new pass over the data if it is not the next one."""
        before, self._place = self._place, None  # a failure half-way starts anew
        with Span(self.device) as span:
            if before is None or request.place != (*before[:-1], before[-1] + 1):
                self._batches = self._pass(request)
            self._batch, self._views = next(self._batches)
        self._place, self._cost = request.place, (span, 1 / sharing)
        self._outputs.clear()

    def _pass(self, start: Request) -> Iterator[tuple[Batch, Views]]:
        """Yield an epoch's batches from a position on, and what makes their views.

        A batch has this rank's images, in one view, and the whole batch's labels and indices.
        """
        names = _names(start)
        size, labels = self.options.batch_size, self.dataset.train_labels
        draws = generator(self.seed, "order", *names, start.epoch)
        order = epoch_order(labels, self.options.samples_per_class, draws)
        whole = torch.split(order[start.batch * size :], size)
        mine = [self.ranks.local_slice(indices) for indices in whole]
        augmentation = derive(self.seed, "augmentation", *names, start.epoch)
        parts = self.dataset.train_batches(torch.cat(mine), len(mine[0]), augmentation, self.device)
        viewed = with_views(parts, self.dataset.info, partial(self._view_seed, start))
        for indices, (part, views) in zip(whole, viewed, strict=True):
            if self.ranks.world > 1:
                part = Batch(part.images, labels[indices].to(self.device), indices.to(self.device))
            yield part, views

    def _output(self, request: Request, sharing: int) -> tuple[Tensor, NetworkOutput | None, Span, float]:
        """Return the batch's images in all views, the teacher's output for them, and the time of both."""
        with Span(self.device) as span:
            output = None
            # Some data, such as decoded images, are channels last by themselves, and the maps follow the images.
            images = self._views(request.views).contiguous(memory_format=self.layout)
            if request.with_teacher:
                with torch.no_grad(), self.options.teacher_autocast(self.device):
                    output = self._teach(images)
                assert output is not None
                samples = len(self._batch.labels)
                output = self.ranks.all_gather(output.map(Tensor.float), samples, len(request.views), request.with_maps)
        return images, output, span, 1 / sharing

    def _view_seed(self, request: Request, view: str) -> int:
        return derive(self.seed, "view", view, *_names(request), request.epoch)


def _names(request: Request) -> tuple[str, ...]:
    """Return what the random streams of a request's stage are named by beside the epoch."""
    return () if request.stage is None else (request.stage,)
