"""Means over an epoch, which wait for the device at its end only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphkd.objective import Losses


@dataclass(frozen=True)
class EpochMeans:
    """Mean loss, mean raw and weighted loss by term, and share of correct predictions in percent."""

    total: float
    terms: dict[str, dict[str, float]]
    top1: float


class EpochMeter:
    """Accumulate losses and accuracy over an epoch on the device, without waiting for it."""

    def __init__(self) -> None:
        # By the terms of a batch: HKD has fewer on a batch too small for its graph.
        self.sums: dict[tuple[str, ...], Tensor] = {}
        self.samples: dict[tuple[str, ...], int] = {}

    def add(self, labels: Tensor, logits: Tensor, losses: Losses) -> None:
        """Count a batch: labels [B] and the logits [B, C] of its first views."""
        names = tuple(losses.raw)
        correct = (logits.argmax(dim=1) == labels).double().mean(0, keepdim=True)
        values = torch.stack([losses.total, *losses.raw.values(), *losses.weighted.values()]).detach()
        scaled = len(labels) * torch.cat([correct, values.double()])
        self.sums[names] = self.sums[names] + scaled if names in self.sums else scaled
        self.samples[names] = self.samples.get(names, 0) + len(labels)

    def means(self) -> EpochMeans:
        """Return the epoch's means; waits for the device."""
        correct, total, samples = 0.0, 0.0, sum(self.samples.values()) or math.nan  # all steps may have been skipped
        terms: dict[str, dict[str, float]] = {}
        for names, sums in self.sums.items():
            group_correct, group_total, *values = sums.tolist()
            correct, total = correct + group_correct, total + group_total
            for index, name in enumerate(names):
                term = terms.setdefault(name, {"raw": 0.0, "weighted": 0.0, "samples": 0.0})
                term["raw"] += values[index]
                term["weighted"] += values[len(names) + index]
                term["samples"] += self.samples[names]
        means = {
            name: {"raw": term["raw"] / term["samples"], "weighted": term["weighted"] / term["samples"]}
            for name, term in terms.items()
        }
        return EpochMeans(total / samples, means, 100 * correct / samples)

    def state(self) -> list[Any]:
        """Return the sums, for a checkpoint."""
        return [[list(names), self.sums[names], self.samples[names]] for names in self.sums]

    def load(self, state: list[Any]) -> None:
        """Restore what `state` returned."""
        for names, sums, samples in state:
            self.sums[tuple(names)], self.samples[tuple(names)] = sums, samples
