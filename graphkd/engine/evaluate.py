"""Evaluation of networks on a split of a data set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from graphkd.data import Dataset
from graphkd.engine.ranks import Ranks
from graphkd.model import Network
from graphkd.model.base import eval_mode


@dataclass(frozen=True)
class Evaluation:
    """Figures of one network on one split.

    Attributes:
        top1: Share of samples whose highest logit is the label's, in percent.
        top5: Share whose label is among the five highest, in percent; None for five classes or fewer, where all are.
        nll: Mean negative log-likelihood, in nats.
        agreement: Share for which teacher and network predict the same class, in percent; None without a teacher.
        samples: Number of samples.
    """

    top1: float
    top5: float | None
    nll: float
    agreement: float | None
    samples: int


@torch.inference_mode()
def evaluate(
    network: Network, dataset: Dataset, split: str = "test", *,
    teacher: Network | None = None, batch_size: int = 256, device: torch.device | str = "cpu",
    ranks: Ranks | None = None, each_batch: Callable[[], None] = lambda: None,
) -> Evaluation:  # fmt: skip
    """Evaluate a network in eval mode and float32; its mode and the teacher's are restored.

    Args:
        network: A network on `device`.
        dataset: The data.
        split: "train", "val" or "test"; without augmentation.
        teacher: A second network on `device`, to compare predictions with.
        batch_size: Samples at once; changes memory and speed only.
        device: Device of the networks.
        ranks: The processes that share the batches; each returns the figures of all.
        each_batch: Called before every batch; its exceptions end the evaluation.

    Raises:
        UserError: The data set has no such split.
    """
    device = torch.device(device)
    sums = torch.zeros(5, dtype=torch.float64, device=device)
    with eval_mode(network), contextlib.nullcontext() if teacher is None else eval_mode(teacher):
        for number, batch in enumerate(dataset.eval_batches(split, batch_size, device)):
            each_batch()
            if ranks is not None and number % ranks.world != ranks.rank:
                continue
            logits = network(batch.images).logits.float()
            chosen = logits.argmax(dim=1)
            agreeing = chosen == teacher(batch.images).logits.argmax(dim=1) if teacher else torch.zeros_like(chosen)
            highest = logits.topk(min(5, logits.shape[1]), dim=1).indices
            sums += torch.stack(
                [
                    (chosen == batch.labels).sum(),
                    (highest == batch.labels[:, None]).sum(),
                    F.cross_entropy(logits, batch.labels, reduction="sum"),
                    agreeing.sum(),
                    torch.ones_like(chosen).sum(),
                ]
            )
    *figures, samples = (sums if ranks is None else ranks.all_reduce_sum(sums)).tolist()
    top1, top5, nll, agreement = (figure / samples for figure in figures)
    return Evaluation(
        100 * top1, 100 * top5 if dataset.num_classes > 5 else None, nll, 100 * agreement if teacher else None,
        int(samples),
    )  # fmt: skip
