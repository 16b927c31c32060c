"""Cases of the contrast, of its negatives, and of how both grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.bench import published
from graphkd.bench.case import Case, Settings, Sides, Work
from graphkd.contrast import ExplicitSelection, FullBank, Selection, build_sampler, info_nce

TEMPERATURE = 0.07
NETWORKS = ("student", "teacher")


def contrast_cases(settings: Settings) -> list[Case]:
    """Return the contrast of both networks, forward and backward, by sampler."""
    note = "explicit gets the baseline's indices, shared draws its own; all is another objective, with all negatives"
    return [Case("contrast", partial(contrast, settings), note, memory="full")]


def sampling_cases(settings: Settings) -> list[Case]:
    """Return the negatives of one step."""
    return [Case("sampling", partial(sampling, settings), "numpy.random.choice for each sample in the baseline")]


def growth_cases(settings: Settings) -> list[Case]:
    """Return what larger N, K and B cost."""
    large = replace(settings, samples=settings.larger_samples)
    largest = replace(large, batch=settings.larger_batch, negatives=settings.larger_negatives)
    gathered = 2 * largest.batch * largest.negatives * largest.dim * 4 / 2**30
    size = f"N={largest.samples:,}, B={largest.batch:,}, K={largest.negatives:,}"
    grown = f"shared, from N={settings.samples:,} to {large.samples:,}"
    too_large = f"at B={largest.batch:,}, K={largest.negatives:,} the baseline would gather {gathered:.3g} GiB"
    of_grown = "from N to M compares graphkd at M with graphkd at N, as the baseline"
    return [
        Case("growth", partial(contrast, large, ("explicit", "shared"), f", N={large.samples:,}"), quick=False),
        Case("growth", partial(shared, large, grown, settings), of_grown, quick=False),
        Case("growth", partial(shared, largest, f"shared, {size}"), too_large, quick=False),
    ]


def contrast(settings: Settings, samplers: Sequence[str] = ("explicit", "shared", "all"), suffix: str = "") -> Sides:
    """Return the samplers against gathered negatives; `suffix` ends the names of the rows."""
    state = _Contrast(settings)
    negatives = published.Sampler(state.training_labels, settings.negatives, settings.seed).draw(state.labels)
    given = partial(state.walk, lambda: ExplicitSelection(negatives, settings.samples))
    ours = {f"{name}{suffix}": given if name == "explicit" else state.drawn(name) for name in samplers}
    return Sides(partial(state.gather, negatives), ours)


def sampling(settings: Settings) -> Sides:
    """Return the drawing of a batch's negatives on its device, against each sample's by itself on the host."""
    labels = settings.training_labels()
    anchors = labels[settings.indices()]
    bank = FullBank(labels, dim=1)
    samplers = {name: build_sampler(name, bank, settings.negatives) for name in ("explicit", "shared")}
    ours = {name: partial(sampler.select, anchors) for name, sampler in samplers.items()}
    return Sides(partial(published.Sampler(labels, settings.negatives, settings.seed).draw, anchors), ours)


def shared(settings: Settings, name: str, smaller: Settings | None = None) -> Sides:
    """Return `shared` under the name of its row, against `shared` over a smaller bank or nothing."""
    baseline = None if smaller is None else _Contrast(smaller).drawn("shared")
    return Sides(baseline, {name: _Contrast(settings).drawn("shared")})


class _Contrast:
    """Individual and graph queries of both networks, their positives and banks, and each way to contrast them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.training_labels = settings.training_labels()
        self.labels = self.training_labels[settings.indices()]
        self.banks = [
            FullBank(self.training_labels, settings.dim, generator=settings.generator(f"{name} bank"))
            for name in NETWORKS
        ]
        shape = 2, settings.batch, settings.dim
        self.queries = [F.normalize(settings.normal(name, *shape), dim=2).requires_grad_() for name in NETWORKS]
        self.positives = [F.normalize(settings.normal(f"{name} +", *shape), dim=2) for name in NETWORKS]

    def drawn(self, sampler: str) -> Work:
        """Return our way with negatives that it draws in each step."""
        drawing = build_sampler(sampler, self.banks[0], self.settings.negatives)
        return partial(self.walk, lambda: drawing.select(self.labels))

    def gather(self, negatives: Tensor) -> tuple[Tensor, ...]:
        """Take a step in the published way, with negatives int64 [B, K]; return the queries' gradients."""
        losses = []
        for bank, queries, positives in zip(self.banks, self.queries, self.positives, strict=True):
            rows = published.gather(bank.rows, negatives)
            parts = zip(queries, positives, strict=True)
            losses += [published.contrast(query, positive, rows, TEMPERATURE) for query, positive in parts]
        return torch.autograd.grad(torch.stack(losses).sum(), self.queries)

    def walk(self, select: Callable[[], Selection]) -> tuple[Tensor, ...]:
        """Take a step in our way; return the same."""
        selection = select()
        sides = zip(self.banks, self.queries, self.positives, strict=True)
        losses = [info_nce(queries, positives, bank, selection, TEMPERATURE) for bank, queries, positives in sides]
        return torch.autograd.grad(torch.cat(losses).sum(), self.queries)
