"""Random input for tests: batches as graph builders and objectives see them, and graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphkd.batch import DistillationBatch, NetworkOutput
from graphkd.contrast.options import BankOptions
from graphkd.graph import BatchGraph, Nodes

CLASSES = 5
DIM = 16
TRAIN_SIZE = 90
"""Training samples behind every batch; sample i is of class i mod CLASSES."""
TRAIN_LABELS = torch.arange(TRAIN_SIZE) % CLASSES
MAPS = {
    "student": [(4, 8, 8), (4, 8, 8), (6, 4, 4), (8, 2, 2)],
    "teacher": [(6, 8, 8), (6, 8, 8), (8, 4, 4), (10, 2, 2)],
}
WIDTHS = {"student": 12, "teacher": 20}


def seeded(seed: int, device: str = "cpu") -> torch.Generator:
    """A fresh generator."""
    return torch.Generator(device).manual_seed(seed)


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal values that depend on the seed alone, whatever the dtype."""
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def nodes(size: int, seed: int = 0, dtype: torch.dtype = torch.float32, **given: Any) -> Nodes:
    """A batch with everything that a graph builder may look at; `given` replaces parts of it."""
    indices = torch.randperm(TRAIN_SIZE, generator=seeded(seed))[:size]
    made = {
        "logits": 3 * normal(seed, size, CLASSES, dtype=dtype),
        "embedding": normal(seed + 1, size, DIM, dtype=dtype),
        "labels": TRAIN_LABELS[indices],
        "indices": indices,
        "bank": BankOptions().build(TRAIN_LABELS, DIM, seeded(seed)).view(),
        "generator": seeded(seed),
        "virtual": Nodes(3 * normal(seed + 2, size, CLASSES, dtype=dtype), normal(seed + 3, size, DIM, dtype=dtype)),
    }
    return Nodes(**{**made, **given})


def random_graph(
    targets: int, seed: int, support: int = 0, weighted: bool = False, loops: bool = True,
    density: float = 0.3, dtype: torch.dtype = torch.float32,
) -> BatchGraph:  # fmt: skip
    """A graph in which each edge is there with a given chance."""
    generator = seeded(seed)
    adjacency = torch.rand(targets, targets + support, generator=generator) < density
    if loops:
        adjacency[:, :targets].fill_diagonal_(True)
    into, out_of = adjacency.nonzero(as_tuple=True)
    weights = 0.5 + torch.rand(len(into), generator=generator, dtype=torch.float64) if weighted else None
    return BatchGraph(
        out_of, into, targets,
        support=normal(seed + 1, support, DIM, dtype=dtype) if support else None,
        weights=None if weights is None else weights.to(dtype),
    )  # fmt: skip


def output(
    side: str, size: int, seed: int, classes: int = CLASSES, dtype: torch.dtype = torch.float32,
    maps_of: str | None = None,
) -> NetworkOutput:  # fmt: skip
    """What a network might return, with the maps of another side if so asked; the student's tensors take gradient."""
    shapes = [(classes,), (WIDTHS[side],), *MAPS[maps_of or side], *MAPS[maps_of or side]]
    tensors = [normal(seed + turn, size, *shape, dtype=dtype) for turn, shape in enumerate(shapes)]
    logits, embedding, *maps = (tensor.requires_grad_(side == "student") for tensor in tensors)
    half = len(MAPS[side])
    return NetworkOutput(logits, maps[:half], embedding, preactivations=maps[half:])


def batch(
    size: int, seed: int = 0, classes: int = CLASSES, dtype: torch.dtype = torch.float32,
    views: Sequence[str] = ("weak",), same_maps: bool = False,
) -> DistillationBatch:  # fmt: skip
    """A batch of different training samples, in several views if so asked."""
    indices = torch.randperm(TRAIN_SIZE, generator=seeded(seed))[:size]
    return DistillationBatch(
        student=output("student", len(views) * size, 20 * seed, classes, dtype),
        teacher=output("teacher", len(views) * size, 20 * seed + 10, classes, dtype, "student" if same_maps else None),
        labels=TRAIN_LABELS[indices] % classes,
        indices=indices,
        views=tuple(views),
    )


def tensors_of(side: NetworkOutput) -> list[Tensor]:
    """All tensors of a network's output."""
    return [side.logits, side.embedding, *side.features, *(side.preactivations or [])]
