"""VRM: virtual relation matching, the edges of a graph between two views of the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.builder import GraphBuilder
from graphkd.errors import check
from graphkd.graph import Nodes
from graphkd.objective.base import OBJECTIVES, Objective, Setting, Stream, teacher_output
from graphkd.objective.logits import check_share, entropies, reliable
from graphkd.objective.lskd import standardised, two_class_notes

_EPS = 1e-3
"""Shortest difference that is stretched to unit length: that of two equal images is nothing but rounding."""


@OBJECTIVES.register("vrm")
class VRM(Objective):
    """Huber loss between the networks' relations of samples and of classes over two views (arXiv 2502.20760).

    With z the standardised logits, the edge from sample j's virtual (strong) view to sample i's real (weak) one is
    (z_i - z_j) / |z_i - z_j|, in R^C. `samples` is the mean over the edges of a graph, of the loss summed over an
    edge's entries. With w_a the column of class a in the logits of both views, `classes` is the same for the edges
    (w_a - w_b) / |w_a - w_b| between all classes, in R^2B.

    Which edges between samples there are says the graph that `builder` builds of the teacher's outputs: all with
    `builder=virtual`, as in the paper; of other graphs, each edge j -> i goes from j's virtual view to i.
    """

    name = "vrm"
    needs_maps = False
    parts = ("samples", "classes")
    views = ("weak", "strong")

    def __init__(self, builder: GraphBuilder, delta: float = 1.0, prune_unreliable: float | None = 0.9) -> None:
        """Create a VRM objective.

        The paper's values of both options and of the weights are not known to graphkd: these are its own.

        Args:
            builder: Builds the graph of the samples.
            delta: Where the Huber loss goes over from squares to absolute values.
            prune_unreliable: Leave edges between samples out where the student's predictions for both ends have more
                than this share of the greatest joint entropy, 2 ln C: at the start of a training all. Null keeps all.

        Raises:
            UserError: An option is out of range, or the builder takes edges from a feature bank.
        """
        super().__init__()
        self.check_positive(delta=delta)
        check_share("vrm", prune_unreliable)
        check(
            not builder.uses_bank, "objective 'vrm' has no feature bank, which its graph builder needs: choose another"
        )
        self.builder = builder
        self.delta = delta
        self.prune_unreliable = prune_unreliable
        self._generator: torch.Generator | None = None

    @classmethod
    def builds_graphs(cls, options: Mapping[str, Any]) -> bool:
        return True

    def notes(self, setting: Setting) -> Sequence[str]:
        return [*two_class_notes(setting), *self.builder.notes(setting.largest_batch, setting.labels)]

    def prepare(self, device: torch.device, stream: Stream) -> None:
        """Take the stream `builder` (`Objective.prepare`)."""
        super().prepare(device, stream)
        self._generator = stream("builder")

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        batch = batch.select(self.views)
        student, teacher = standardised(batch.student.logits), standardised(teacher_output(batch).logits)
        between_samples = self._distance(*(_between(*logits.chunk(2)) for logits in (student, teacher)))
        pairs = self._pairs(batch)
        if self.prune_unreliable is not None:
            real, virtual = entropies(batch.student.logits).chunk(2)
            pairs = pairs & reliable(real, virtual, self.prune_unreliable, student.shape[1])
        if batch.diagnostics is not None:
            batch.diagnostics.update(_explained(pairs, batch.labels))
        pairs = pairs.float()
        first, second = torch.triu_indices(student.shape[1], student.shape[1], 1, device=student.device)
        columns = (_unit(logits.T[first] - logits.T[second]) for logits in (student, teacher))
        return {
            "samples": (between_samples * pairs).sum() / pairs.sum().clamp(min=1),
            "classes": self._distance(*columns).mean(),
        }

    def _pairs(self, batch: DistillationBatch) -> Tensor:
        """Return the teacher's graph as edges from virtual samples j to real ones i, bool [i, j]."""
        size = len(batch.labels)
        output = teacher_output(batch)
        real, virtual = (
            Nodes(logits, embedding, batch.labels, batch.indices, generator=self._generator)
            for logits, embedding in zip(output.logits.chunk(2), output.embedding.chunk(2), strict=True)
        )
        graph = self.builder.build_checked(replace(real, virtual=virtual))
        return graph.adjacency[:, -size:]  # the virtual samples, or the samples themselves where there are none

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the Huber loss of each edge, [..., E] to [...]."""
        return F.huber_loss(student, teacher, reduction="none", delta=self.delta).sum(-1)


def _explained(pairs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return homophily and degree of the graph that is matched, without the edges between a sample's own views."""
    others = pairs & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    count = others.sum()
    same = (others & (labels[:, None] == labels)).sum()
    return {"teacher_homophily": same / count, "teacher_degree": count / len(labels)}


def _between(real: Tensor, virtual: Tensor) -> Tensor:
    """Return the edges between all rows of both, [B, C] each to [B, B, C]."""
    return _unit(real[:, None] - virtual)


def _unit(edges: Tensor) -> Tensor:
    """Return vectors of unit length; shorter ones than the rounding of logits stay short."""
    return F.normalize(edges, dim=-1, eps=_EPS)
