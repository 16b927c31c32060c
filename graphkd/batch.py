"""Outputs of networks and batches for objectives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from graphkd.errors import one_of

ViewName = Literal["weak", "strong", "rotated_90", "rotated_180", "rotated_270"]
"""Names of the views of a sample (`graphkd.data.views`)."""


class NetworkOutput(NamedTuple):
    """Output of a network for a batch of images.

    Attributes:
        logits: Class scores before the softmax, float [B, C].
        features: Feature maps after their last ReLU, the stem's first, each float [B, channels, height, width].
        embedding: The last, pooled feature, float [B, D].
        preactivations: The maps before their last ReLU (the maps themselves where they are not activated); None where
            the network does not return them.
    """

    logits: Tensor
    features: list[Tensor]
    embedding: Tensor
    preactivations: list[Tensor] | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> NetworkOutput:
        """Return the output with a function applied to every tensor."""
        logits, features, embedding, preactivations = self
        return NetworkOutput(
            function(logits), [function(feature) for feature in features], function(embedding),
            None if preactivations is None else [function(map_) for map_ in preactivations],
        )  # fmt: skip


@dataclass(frozen=True)
class Progress:
    """Position of a batch in the training, counted from 0.

    Attributes:
        step: Number of the batch.
        epoch: Number of the epoch.
        epochs: Epochs of the training.
        part: Number of the batch among those whose gradients one optimizer step averages.
    """

    step: int = 0
    epoch: int = 0
    epochs: int = 1
    part: int = 0


@dataclass(frozen=True)
class DistillationBatch:
    """A batch as objectives see it.

    Attributes:
        student: The student's output (carries gradient).
        teacher: The teacher's output (no gradient); None only where no objective needs a teacher.
        labels: Class of each sample, int64 [B].
        indices: Position of each sample in the training set, int64 [B].
        negatives: Indices of negatives, int64 [B, K], for `sampler="explicit"`; drawn where None.
        progress: Position in the training.
        views: Names of the views of each sample in the networks' outputs, which are [views x B, ...]: all first views,
            then all second ones, and so on. Labels and indices stay [B].
        parts: Number of samples of each process, in order; empty for a single process.
        diagnostics: Where objectives put figures of this batch that explain it, scalars by name; None where nobody
            asks.
    """

    student: NetworkOutput
    teacher: NetworkOutput | None
    labels: Tensor
    indices: Tensor
    negatives: Tensor | None = None
    progress: Progress = field(default_factory=Progress)
    views: tuple[str, ...] = ("weak",)
    parts: Sequence[int] = ()
    diagnostics: dict[str, Tensor] | None = None

    def select(self, views: Sequence[str]) -> DistillationBatch:
        """Return the batch with some of its views, in the order given; raise a `UserError` if one is missing."""
        views, size = tuple(views), len(self.labels)
        if views == self.views:
            return self
        places = [self.views.index(one_of(view, self.views, "the batch has no view")) for view in views]
        are_neighbours = places == list(range(places[0], places[0] + len(places)))  # which need no copy

        def selected(tensor: Tensor) -> Tensor:
            if are_neighbours:
                return tensor[size * places[0] : size * (places[-1] + 1)]
            return torch.cat([tensor[size * place : size * (place + 1)] for place in places])

        teacher = None if self.teacher is None else self.teacher.map(selected)
        return replace(self, student=self.student.map(selected), teacher=teacher, views=views)
