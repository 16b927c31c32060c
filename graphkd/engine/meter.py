"""Means over an epoch, which wait for the device at its end only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphkd.objective import Losses


@dataclass(frozen=True)
class EpochMeans:
    """Mean loss, mean raw and weighted loss by term, share of correct predictions in percent, and mean diagnostics."""

    total: float
    terms: dict[str, dict[str, float]]
    top1: float
    diagnostics: dict[str, float]


class EpochMeter:
    """Accumulate losses and accuracy over an epoch on the device, without waiting for it."""

    def __init__(self) -> None:
        # By the terms of a batch: HKD has fewer on a batch too small for its graph.
        self.sums: dict[tuple[str, ...], Tensor] = {}
        self.samples: dict[tuple[str, ...], int] = {}
        self.diagnostics: dict[str, Tensor] = {}  # sum and number of the finite values

    def add(self, labels: Tensor, logits: Tensor, losses: Losses) -> None:
        """Count a batch: labels [B] and the logits [B, C] of its first views."""
        names = tuple(losses.raw)
        correct = (logits.argmax(dim=1) == labels).double().mean(0, keepdim=True)
        values = torch.stack([losses.total, *losses.raw.values(), *losses.weighted.values()]).detach()
        scaled = len(labels) * torch.cat([correct, values.double()])
        self.sums[names] = self.sums[names] + scaled if names in self.sums else scaled
        self.samples[names] = self.samples.get(names, 0) + len(labels)
        for name, value in losses.diagnostics.items():
            finite = value.isfinite()
            counted = torch.stack([value.detach().where(finite, 0.0).double(), finite.double()])
            self.diagnostics[name] = self.diagnostics[name] + counted if name in self.diagnostics else counted

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
        figures = {name: pair.tolist() for name, pair in self.diagnostics.items()}
        diagnostics = {name: value / count if count else math.nan for name, (value, count) in figures.items()}
        return EpochMeans(total / samples, means, 100 * correct / samples, diagnostics)

    def state(self) -> dict[str, Any]:
        """Return the sums, for a checkpoint."""
        sums = [[list(names), self.sums[names], self.samples[names]] for names in self.sums]
        return {"sums": sums, "diagnostics": self.diagnostics}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restore what `state` returned, on a device; a state of graphkd 0.2 and earlier has no diagnostics."""
        for names, sums, samples in state["sums"]:
            self.sums[tuple(names)], self.samples[tuple(names)] = sums.to(device), samples
        self.diagnostics = {name: pair.to(device) for name, pair in state.get("diagnostics", {}).items()}
