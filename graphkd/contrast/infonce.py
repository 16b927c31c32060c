"""Exact contrastive losses over a bank, which never hold the embeddings of all negatives.

Both losses iterate over blocks of bank rows and keep, beside running sums, only their gradient with respect to the
queries. So memory grows with the batch and the block, not with batch x negatives x width, and the bank may be written
to as soon as a loss has been computed.

Where a bank is sharded, each process iterates over its own rows, and the running sums are reduced at the end: one
collective exchange for `nce`, two for `info_nce`, none in the backward pass. All processes must then pass the same
queries, positives and selection; they get the same loss and the same whole gradient.

Matrix products follow `torch.set_float32_matmul_precision`, which is exact float32 unless changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphkd.contrast.bank import Bank
from graphkd.contrast.selection import Selection
from graphkd.contrast.shard import Shard
from graphkd.contrast.view import fetch
from graphkd.errors import check

NCE_EPS = 1e-7
# A term this far (in logits) below the largest is lost in a sum even in float64; smaller ones would be slow denormals.
_FLOOR = -60.0
# Added to the logits of rows that do not count, so that none of them is the largest.
_HIDDEN = -1e30


def info_nce(
    queries: Tensor, positives: Tensor, bank: Bank | Tensor, selection: Selection, temperature: float
) -> Tensor:
    """Return InfoNCE, the cross-entropy of telling the positive from the negatives.

    With s = query . embedding / T it is the batch mean of -s_pos + log(exp(s_pos) + sum of w exp(s_neg)),
    where w is how often a negative counts (van den Oord et al. 2018, eq. 4; arXiv 1807.03748).

    Args:
        queries: P parts whose anchors share their negatives, float [P, B, D]; only these get gradient.
        positives: The embedding that each query should be closest to, float [P, B, D].
        bank: The rows that the selection refers to: a bank or a matrix [R, D].
        selection: The negatives of the B anchors.
        temperature: T, above 0.

    Returns:
        The loss of each part, [P]; float32, also under autocast (float64 from float64 queries).

    Raises:
        UserError: The shapes do not fit, or T is not above 0.
    """
    queries, positives = _operands(queries, positives, temperature)
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        sums = _softmax_sums(queries, positives, bank, selection, temperature)
        surplus = sums.maximum + sums.total.log() - sums.positive
        losses = torch.logaddexp(surplus, torch.zeros_like(surplus)).mean(1)
        if sums.mixture is None:
            return losses
        everything = sums.total + (sums.positive - sums.maximum).exp()
        gradient = sums.mixture.addcmul_(sums.total[..., None], positives, value=-1)
        gradient /= everything[..., None] * (temperature * queries.shape[1])
    return _with_gradient(queries, losses, gradient)


def nce(
    queries: Tensor,
    positives: Tensor,
    bank: Bank | Tensor,
    selection: Selection,
    temperature: float,
    log_normalizer: Tensor,
    samples: int,
) -> Tensor:
    """Return noise-contrastive estimation in the form of CRD (Tian et al. 2020, arXiv 1910.10699).

    With P = exp(s) / Z, s = query . embedding / T, K negatives and n samples it is the batch mean of
    -log(P_pos / (P_pos + K/n)) - sum of log((K/n) / (P_neg + K/n)), with 1e-7 added to each denominator.

    Arguments, result and errors as in `info_nce`; `log_normalizer` is log Z of each part, [P], from
    `nce_log_normalizer` of the first batch, and `samples` is n, the number of training samples.
    """
    queries, positives = _operands(queries, positives, temperature)
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        scaled = queries / temperature
        counts = selection.counts().to(queries.dtype)
        noise = counts / samples
        shift = log_normalizer.to(queries.dtype)[:, None] + (noise + NCE_EPS).log()
        positive = (scaled * positives).sum(-1) - shift
        of_negatives = torch.zeros_like(positive)
        mixture = torch.zeros_like(queries) if queries.requires_grad else None
        for anchors, rows, scores, weights in _scored(scaled, bank, selection):
            odds = scores.sub_(shift[:, anchors, None]).clamp_(min=_FLOOR)
            of_negatives[:, anchors] += _weighted(_softplus(odds), weights).sum(-1)
            if mixture is not None:
                mixture[:, anchors] += _mixed(_weighted(odds.sigmoid_(), weights), rows)
        of_negatives, mixture = _summed(_shard(bank), of_negatives, mixture)
        losses: Tensor = _softplus(-positive) + torch.special.xlog1py(counts, NCE_EPS / noise) + of_negatives
        if mixture is None:
            return losses.mean(1)
        mixture.addcmul_(positive.neg().sigmoid()[..., None], positives, value=-1)
        gradient = mixture / (temperature * queries.shape[1])
    return _with_gradient(queries, losses.mean(1), gradient)


@torch.no_grad()
def nce_log_normalizer(
    queries: Tensor,
    positives: Tensor,
    bank: Bank | Tensor,
    selection: Selection,
    temperature: float,
    samples: int,
) -> Tensor:
    """Return log Z of each part, [P]: CRD's constant Z = n * mean of exp(s) over a batch's positives and negatives.

    Arguments and errors as in `nce`.
    """
    queries, positives = _operands(queries, positives, temperature)
    with torch.autocast(queries.device.type, enabled=False):
        sums = _softmax_sums(queries, positives, bank, selection, temperature)
        of_anchor = torch.logaddexp(sums.maximum + sums.total.log(), sums.positive)
        terms = selection.counts().to(queries.dtype).sum() + queries.shape[1]
        return of_anchor.logsumexp(1) - terms.log() + math.log(samples)


@torch.no_grad()
def mean_negative_similarity(queries: Tensor, bank: Bank | Tensor, selection: Selection) -> Tensor:
    """Return the mean of query . negative over a batch, [P]; NaN without negatives. Arguments as in `info_nce`."""
    queries = queries.to(torch.promote_types(queries.dtype, torch.float32))
    with torch.autocast(queries.device.type, enabled=False):
        totals = queries.new_zeros(queries.shape[:2])
        for anchors, _, scores, weights in _scored(queries, bank, selection):
            totals[:, anchors] += _weighted(scores, weights).sum(-1)
        return _shard(bank).sum(totals).sum(1) / selection.counts().sum()


class _SoftmaxSums(NamedTuple):
    """Logits of the queries, and sums over their negatives.

    Attributes:
        positive: s_pos, [P, B].
        maximum: The largest logit m, [P, B].
        total: Sum of w exp(s - m), [P, B].
        mixture: Sum of w exp(s - m) * row, [P, B, D]; None for queries without gradient.
    """

    positive: Tensor
    maximum: Tensor
    total: Tensor
    mixture: Tensor | None


def _softmax_sums(
    queries: Tensor, positives: Tensor, bank: Bank | Tensor, selection: Selection, temperature: float
) -> _SoftmaxSums:
    """Return the sums by an online log-sum-exp, which rescales them whenever a larger logit comes up."""
    scaled = queries / temperature
    positive = (scaled * positives).sum(-1)
    maximum, total = positive.clone(), torch.zeros_like(positive)
    mixture = torch.zeros_like(queries) if queries.requires_grad else None
    for anchors, rows, scores, weights in _scored(scaled, bank, selection):
        if weights is not None:
            scores.add_(weights.clone().eq_(0), alpha=_HIDDEN)
        larger = torch.maximum(maximum[:, anchors], scores.amax(-1))
        terms = _weighted(scores.sub_(larger[..., None]).clamp_(min=_FLOOR).exp_(), weights)
        rescale = (maximum[:, anchors] - larger).exp_()
        total[:, anchors] = total[:, anchors] * rescale + terms.sum(-1)
        if mixture is not None:
            mixture[:, anchors] = mixture[:, anchors] * rescale[..., None] + _mixed(terms, rows)
        maximum[:, anchors] = larger
    shard = _shard(bank)
    if shard.world > 1:
        largest = shard.max(maximum.clone())
        rescale = (maximum - largest).exp_()
        maximum, total = largest, total.mul_(rescale)
        if mixture is not None:
            mixture.mul_(rescale[..., None])
    return _SoftmaxSums(positive, maximum, *_summed(shard, total, mixture))


def _shard(bank: Bank | Tensor) -> Shard:
    return bank.shard if isinstance(bank, Bank) else Shard(len(bank))


def _summed(shard: Shard, totals: Tensor, mixture: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return totals [P, B] and mixture [P, B, D] summed over all processes, in one exchange."""
    if shard.world == 1 or mixture is None:
        return shard.sum(totals), mixture
    both = shard.sum(torch.cat([totals[..., None], mixture], dim=-1))
    return both[..., 0], both[..., 1:]


def _scored(
    queries: Tensor, bank: Bank | Tensor, selection: Selection
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor | None]]:
    """Yield blocks: anchors, rows [c, D] or [b, c, D], products [P, b, c] to overwrite, weights [b, c]."""
    parts, _, dim = queries.shape
    entries = _block_entries(queries.device)
    within = _shard(bank).within
    for block in selection.blocks(rows=max(1, entries // dim), pairs=max(1, entries // parts), within=within):
        if isinstance(bank, Bank):
            rows = bank.fetch(block.rows, queries.dtype)
        else:
            rows = fetch(bank, block.rows, queries.device, queries.dtype)
        some = queries[:, block.anchors]
        scores = some @ rows.T if rows.dim() == 2 else (some.transpose(0, 1) @ rows.mT).transpose(0, 1)
        yield block.anchors, rows, scores, block.weights


def _block_entries(device: torch.device) -> int:
    """Return the most entries of a block: what a CPU's cache holds; elsewhere launches cost more than memory."""
    return 1 << 18 if device.type == "cpu" else 1 << 22


def _mixed(terms: Tensor, rows: Tensor) -> Tensor:
    """Return the sum of rows [c, D] or [b, c, D] with weights [P, b, c]: [P, b, D]."""
    return terms @ rows if rows.dim() == 2 else (terms.transpose(0, 1) @ rows).transpose(0, 1)


def _weighted(terms: Tensor, weights: Tensor | None) -> Tensor:
    return terms if weights is None else terms.mul_(weights)


def _softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)), to the precision of float64."""
    return F.softplus(x, threshold=40.0)


def _operands(queries: Tensor, positives: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Check queries and positives, and return them in the precision of the computation."""
    check(
        queries.dim() == 3 and queries.shape == positives.shape,
        f"queries {list(queries.shape)} and positives {list(positives.shape)} must both be [P, B, D]",
    )
    check(temperature > 0, f"the temperature is {temperature}, but must be above 0")
    dtype = torch.promote_types(queries.dtype, torch.float32)
    return queries.to(dtype), positives.to(dtype)


class _WithGradient(torch.autograd.Function):
    """Losses [P] with a known gradient with respect to the queries [P, B, D]."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return losses.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None, None], None, None


def _with_gradient(queries: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
    attached: Tensor = _WithGradient.apply(queries, losses, gradient)
    return attached
