"""HKD arranged as in the released code, from its formulas: what the benchmark compares with.

A data set augments and normalises each image by itself and draws its negatives by `numpy.random.choice`. Per step B x K
x D embeddings are gathered from each bank (both parts then use them), multiplied in a batched product, and the
cross-entropy is taken; the kNN graph goes through the host to DGL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.data import Dataset as TorchDataset

from graphkd.batch import DistillationBatch
from graphkd.data.views import STRONG
from graphkd.graph import dgl_nn, dgl_supports, load_dgl
from graphkd.objective.base import teacher_output

SMOOTHING = 0.75
MOMENTUM = 0.9
PADDING = 4
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


class Sampler:
    """Draws every sample's negatives by itself, without replacement where there are enough."""

    def __init__(self, training_labels: Tensor, negatives: int, seed: int) -> None:
        """Create a sampler of K negatives for training samples of these classes, int64 [N]."""
        classes = training_labels.cpu().numpy()
        self._pools = {label: np.flatnonzero(classes != label) for label in np.unique(classes).tolist()}
        self._negatives = negatives
        self._random = np.random.RandomState(seed)

    def draw(self, labels: Tensor) -> Tensor:
        """Draw the negatives of samples with these labels, int64 [B] -> [B, K], on the labels' device."""
        drawn = [self.draw_one(label) for label in labels.tolist()]
        return torch.from_numpy(np.stack(drawn)).to(labels.device)

    def draw_one(self, label: int) -> np.ndarray:
        """Draw the negatives of one sample of a class, int64 [K]."""
        pool = self._pools[label]
        return self._random.choice(pool, self._negatives, replace=len(pool) < self._negatives)


class PerImage(TorchDataset[tuple[Any, ...]]):
    """Images that are augmented one by one through Pillow, as torchvision's transforms are mostly used.

    A sample is image (float32 [C, H, W]), label and index, with a sampler its negatives (int64 [K]) too.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, normalisation: Normalisation, sampler: Sampler | None,
        strong: bool = False,
    ) -> None:  # fmt: skip
        """Create a data set of images (uint8 [N, C, H, W]) and labels (int64 [N]).

        With `strong`, an image has a second view, made from the first one by RandAugment: float32 [2, C, H, W].
        """
        from torchvision import transforms

        self._images = images.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels = labels.tolist()
        self._sampler = sampler
        self._crop = transforms.Compose(
            [transforms.RandomCrop(images.shape[2], padding=PADDING), transforms.RandomHorizontalFlip()]
        )
        self._strong = transforms.RandAugment(STRONG.rand_augment, STRONG.rand_magnitude) if strong else None
        self._normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*normalisation)])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        label = self._labels[index]
        picture = self._crop(Image.fromarray(self._images[index]))
        image = self._normalise(picture)
        if self._strong is not None:
            image = torch.stack([image, self._normalise(self._strong(picture))])
        if self._sampler is None:
            return image, label, index
        return image, label, index, self._sampler.draw_one(label)


def load(dataset: PerImage, batch: int, batches: int, workers: int) -> Iterator[list[Tensor]]:
    """Yield endless passes of so many random batches; worker processes begin with a pass and are idle between two."""
    sampler = RandomSampler(dataset, num_samples=batch * batches)
    loader = DataLoader(dataset, batch, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
    while True:
        yield from loader


def gather(bank: Tensor, negatives: Tensor) -> Tensor:
    """Return the embeddings of all negatives: bank [N, D], negatives [B, K] -> [B, K, D]."""
    return bank.index_select(0, negatives.flatten()).view(*negatives.shape, -1)


def contrast(queries: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of queries [B, D] with positives [B, D] at place 0 and negatives [B, K, D] behind."""
    positive = (queries * positives).sum(dim=1, keepdim=True)
    negative = torch.bmm(negatives, queries[:, :, None]).squeeze(2)
    target = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    return F.cross_entropy(torch.cat([positive, negative], dim=1) / temperature, target)


def knn_edges(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return sources and targets of the kNN graph over softmax rows, itself included; int64 [B * k], on the host."""
    probabilities = logits.softmax(dim=1)
    norms = probabilities.norm(dim=1)
    distance = 1 - probabilities @ probabilities.T / torch.outer(norms, norms).clamp(min=1e-7)
    distance.fill_diagonal_(-1)
    sources = distance.topk(k, largest=False).indices.cpu().flatten()
    return sources, torch.arange(len(logits)).repeat_interleave(k)


def knn_graph(logits: Tensor, k: int) -> object:
    """Return the same as a `DGLGraph` on the logits' device."""
    return load_dgl().graph(knn_edges(logits, k), num_nodes=len(logits)).to(logits.device)


class PublishedHKD(nn.Module):
    """The HKD loss (arXiv 2108.05507) with its heads, encoders (one hop of TAGConv) and banks.

    Index 0 is the student's side, 1 the teacher's.
    """

    def __init__(
        self, student_dim: int, teacher_dim: int, samples: int, dim: int = 128, k: int = 8, temperature: float = 0.07
    ) -> None:
        """Create a loss for embeddings of these widths, with banks [samples, dim] and k nearest neighbours."""
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, dim) for width in (student_dim, teacher_dim))
        self.encoders = nn.ModuleList(dgl_nn().TAGConv(dim, dim, k=1) for _ in range(2))
        bound = (dim / 3) ** -0.5
        self.register_buffer("student_bank", torch.empty(samples, dim).uniform_(-bound, bound))
        self.register_buffer("teacher_bank", torch.empty(samples, dim).uniform_(-bound, bound))
        self.k = k
        self.temperature = temperature
        self._pending: tuple[Tensor, Sequence[Tensor]] | None = None

    @property
    def banks(self) -> tuple[Tensor, Tensor]:
        """The banked embeddings of both sides, each [N, D]."""
        return self.get_buffer("student_bank"), self.get_buffer("teacher_bank")

    def forward(self, batch: DistillationBatch) -> Tensor:
        """Return the sum of the individual and (from k samples on) the holistic part; needs `batch.negatives`."""
        assert batch.negatives is not None
        outputs = (batch.student, teacher_output(batch))
        embeddings = [
            F.normalize(head(output.embedding), dim=1) for head, output in zip(self.heads, outputs, strict=True)
        ]
        banked = [bank[batch.indices] for bank in self.banks]
        negatives = [gather(bank, batch.negatives) for bank in self.banks]
        individual = self._both_ways(embeddings, banked, negatives)
        self._pending = None
        if len(batch.labels) < self.k:
            return individual
        graph_embeddings = [
            self._encoded(encoder, output.logits.detach(), embedding)
            for encoder, output, embedding in zip(self.encoders, outputs, embeddings, strict=True)
        ]
        smoothed = [
            F.normalize(SMOOTHING * old + (1 - SMOOTHING) * new.detach(), dim=1)
            for old, new in zip(banked, graph_embeddings, strict=True)
        ]
        self._pending = batch.indices, [embedding.detach() for embedding in embeddings]
        return individual + self._both_ways(graph_embeddings, smoothed, negatives)

    def after_step(self) -> None:
        """Write the last batch to the banks."""
        if self._pending is not None:
            indices, embeddings = self._pending
            for bank, new in zip(self.banks, embeddings, strict=True):
                bank[indices] = F.normalize(MOMENTUM * bank[indices] + (1 - MOMENTUM) * new, dim=1)

    def _both_ways(self, queries: Sequence[Tensor], positives: Sequence[Tensor], negatives: Sequence[Tensor]) -> Tensor:
        """Return each side's queries against the other side's positives and its own negatives."""
        student = contrast(queries[0], positives[1], negatives[0], self.temperature)
        return student + contrast(queries[1], positives[0], negatives[1], self.temperature)

    def _encoded(self, encoder: nn.Module, logits: Tensor, x: Tensor) -> Tensor:
        if dgl_supports(x.device.type):
            return F.normalize(encoder(knn_graph(logits, self.k), x), dim=1)
        # The installed DGL does not know the device: its message passing is done by hand.
        sources, targets = (ends.to(x.device) for ends in knn_edges(logits, self.k))
        hop = torch.zeros_like(x).index_add(0, targets, x[sources] / self.k)
        encoded: Tensor = encoder.lin(torch.cat([x, hop], dim=1))  # type: ignore[operator]
        return F.normalize(encoded, dim=1)
