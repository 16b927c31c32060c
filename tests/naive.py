"""The contrast written straight from its formulas: what the library is compared with, in numbers and in time.

Every function gathers the embeddings of all negatives, B x K x D of them, as the published code does.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.contrast import Selection


def sample_negatives(training_labels: Tensor, labels: Tensor, negatives: int, rng: np.random.RandomState) -> Tensor:
    """K rows of another class for each anchor, without replacement where there are K: int64 [B, K]."""
    rows = np.arange(len(training_labels))
    pools = {label: rows[training_labels.numpy() != label] for label in set(labels.tolist())}
    drawn = []
    for label in labels.tolist():
        pool = pools[label]
        drawn.append(rng.choice(pool, negatives, replace=len(pool) < negatives))
    return torch.from_numpy(np.stack(drawn))


def products(queries: Tensor, positives: Tensor, bank: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Of each query [B, D] with its positive, [B, 1], and with its negatives, [B, K]."""
    anchors, count = negatives.shape
    rows = bank.index_select(0, negatives.flatten()).view(anchors, count, -1)
    return (queries * positives).sum(1, keepdim=True), torch.bmm(rows, queries[:, :, None]).squeeze(2)


def info_nce(queries: Tensor, positives: Tensor, bank: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Cross-entropy with the positive at place 0; queries and positives [B, D], negatives [B, K]."""
    logits = torch.cat(products(queries, positives, bank, negatives), dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))


def nce_normalizer(
    queries: Tensor, positives: Tensor, bank: Tensor, negatives: Tensor, temperature: float, samples: int
) -> Tensor:
    """CRD's Z: n times the mean of exp(s) over positives and negatives."""
    logits = torch.cat(products(queries, positives, bank, negatives), dim=1) / temperature
    return logits.exp().mean() * samples


def nce(
    queries: Tensor,
    positives: Tensor,
    bank: Tensor,
    negatives: Tensor,
    temperature: float,
    normalizer: Tensor,
    samples: int,
) -> Tensor:
    """CRD's loss of one side."""
    positive, negative = products(queries, positives, bank, negatives)
    p_positive = (positive / temperature).exp() / normalizer
    p_negative = (negative / temperature).exp() / normalizer
    noise = negatives.shape[1] / samples
    of_positive = (p_positive / (p_positive + noise + 1e-7)).log().sum()
    of_negatives = (noise / (p_negative + noise + 1e-7)).log().sum()
    return -(of_positive + of_negatives) / len(queries)


def weighted_info_nce(queries: Tensor, positives: Tensor, bank: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """InfoNCE where row r counts weights[i, r] times for anchor i, weights [B, R]."""
    positive = (queries * positives).sum(1) / temperature
    negative = (weights * (queries @ bank.T / temperature).exp()).sum(1)
    return (-positive + (positive.exp() + negative).log()).mean()


def table(selection: Selection, num_rows: int, rows: int = 7, pairs: int = 20) -> Tensor:
    """How often each row of the bank counts for each anchor, float64 [B, R], summed up block by block."""
    counts = torch.zeros(len(selection.counts()), num_rows, dtype=torch.float64)
    for block in selection.blocks(rows, pairs):
        part = counts[block.anchors]
        places = torch.arange(num_rows)[block.rows] if isinstance(block.rows, slice) else block.rows
        places = places.expand(len(part), -1)
        weights = torch.ones(places.shape) if block.weights is None else block.weights
        part.scatter_add_(1, places, weights.double())
    return counts


def lists(counts: Tensor) -> Tensor:
    """The table as lists of equal length: int64 [B, K]."""
    rows = torch.arange(counts.shape[1])
    return torch.stack([rows.repeat_interleave(of_anchor.long()) for of_anchor in counts])
