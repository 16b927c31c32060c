"""What is measured: cases, the two sides of each, their sizes and the random input they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from graphkd.engine.seeding import generator

Work = Callable[[], object]
"""One step of what is measured; called many times over."""


@dataclass(frozen=True)
class Settings:
    """Where and at which sizes to measure.

    Attributes:
        device: "cpu" or "cuda".
        threads: Threads of torch and DGL on the CPU.
        batch: B, samples a step.
        samples: N, training samples.
        negatives: K, negatives of each sample.
        dim: D, width of embeddings and banks.
        classes: Classes of the training set, equally large.
        k: In-degree of the kNN graph.
        feature_dim: Width of the networks' embeddings, where no network is run.
        teacher, student: Networks of the training step.
        larger_batch: B of the larger graphs and of the largest contrast.
        larger_samples: N to which the contrast grows.
        larger_negatives: K of the largest contrast.
        largest_samples: N to which the objective's memory is measured with full banks.
        huge_samples: The same with a queue.
        seed: Of everything random.
    """

    device: str = "cpu"
    threads: int = 2
    batch: int = 64
    samples: int = 50_000
    negatives: int = 16_384
    dim: int = 128
    classes: int = 100
    k: int = 8
    feature_dim: int = 256
    teacher: str = "resnet32x4"
    student: str = "resnet8x4"
    larger_batch: int = 256
    larger_samples: int = 1_280_000
    larger_negatives: int = 65_536
    largest_samples: int = 10_000_000
    huge_samples: int = 100_000_000
    seed: int = 0

    def generator(self, name: str) -> torch.Generator:
        """Return a fresh generator of that name, on the device."""
        return generator(self.seed, "bench", name, device=self.device)

    def normal(self, name: str, *shape: int) -> Tensor:
        """Return standard normal values of that name, on the device."""
        return torch.randn(*shape, generator=self.generator(name), device=self.device)

    def training_labels(self) -> Tensor:
        """Return the class of every training sample, int64 [N]."""
        return torch.arange(self.samples, device=self.device).remainder_(self.classes)

    def indices(self) -> Tensor:
        """Return which training samples the batch holds, int64 [B]."""
        order = torch.randperm(self.samples, generator=self.generator("indices"), device=self.device)
        return order[: self.batch]


class Sides(NamedTuple):
    """The same step done in the ways that are compared, on input that is there already.

    Attributes:
        baseline: The published way, or None where it cannot run.
        ours: graphkd's, by the name of its row.
        remark: Says, once both were measured, what came out beside time and memory.
    """

    baseline: Work | None
    ours: Mapping[str, Work]
    remark: Callable[[], str] | None = None


@dataclass(frozen=True)
class Case:
    """A comparison; each of graphkd's ways becomes a row.

    Attributes:
        part: The part of the benchmark that it belongs to.
        make: Allocates input and state and returns both sides; goes to other processes, so it must pickle.
        note: What a reader of its rows must know.
        quick: Whether the quick benchmark has it.
        memory: Whether the growth of memory is measured: always, in the full benchmark, or never.
        held: Whether it counts from before input and state are made, else from before the first step.
        steps: How many steps a call of a work takes; the rows are of one.
    """

    part: str
    make: Callable[[], Sides]
    note: str = ""
    quick: bool = True
    memory: Literal["always", "full", "never"] = "always"
    held: bool = False
    steps: int = 1
