"""The outputs, embeddings and graphs of a finished run's networks for some test images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.builder import BUILDERS, GraphBuilder
from graphkd.contrast import FullBank
from graphkd.data import Batch, Dataset
from graphkd.data.views import make_views
from graphkd.errors import UserError, check
from graphkd.graph import BatchGraph, Nodes
from graphkd.model import Network
from graphkd.objective.logits import entropies, prune
from graphkd.run.finished import check_fits, load
from graphkd.run.parse import parse_graph_term


@dataclass(frozen=True)
class NetworkView:
    """Some test images as one network sees them.

    Attributes:
        name: "teacher" or "student".
        logits: Class scores, float [B, C].
        embedding: The network's own embeddings, of unit length, float [B, D].
        graph: The graph of the images to draw.
    """

    name: str
    logits: Tensor
    embedding: Tensor
    graph: BatchGraph


@dataclass(frozen=True)
class Inspection:
    """A finished run and what its networks make of some test images.

    Attributes:
        class_names: Names of the classes that the images are of.
        labels: Position of each image's class in `class_names`, int64 [B].
        drawn: The images in the graphs, int64 [G]; `NetworkView.graph` numbers them from 0.
        networks: The teacher, if the run had one, and the student.
        builder: Name of the graphs' builder.
        pruned: Share of the greatest joint entropy above which edges are left out, or None (`prune_unreliable`).
    """

    class_names: tuple[str, ...]
    labels: Tensor
    drawn: Tensor
    networks: Sequence[NetworkView]
    builder: str
    pruned: float | None = None


@torch.inference_mode()
def inspect(
    folder: str | Path, data: Mapping[str, Any] | None = None, classes: int = 8, per_class: int = 40, drawn: int = 8
) -> Inspection:
    """Inspect a finished run of a student on images of its test split.

    The graphs are those of the run's builder, pruned as in the training, or of kNN where its objective has none. Heads
    and banks of an objective end with the training. So a builder on embeddings sees the networks' own, and a bank those
    of the drawn images.

    Args:
        folder: The run's folder.
        data: Options that replace those of the run's data (`graphkd.run.finished.load`).
        classes: Number of classes that images are taken of, evenly spaced.
        per_class: Most images of a class.
        drawn: Images of a class in the graphs; more where the builder needs them.

    Raises:
        UserError: The folder holds no finished run of a student, its teacher or data cannot be read, the data are of
            other images or classes, or a number is too small.
    """
    check(classes >= 2, f"classes is {classes}, but must be at least 2")
    check(per_class >= drawn >= 1, f"drawn is {drawn}, but must be from 1 to per_class, {per_class}")
    finished = load(folder, data)
    check(finished.record.kind == "student", f"{folder} holds a teacher's run; give the folder of a student's")
    dataset = finished.dataset
    check_fits(finished, dataset, str(folder))
    chosen = torch.linspace(0, dataset.num_classes - 1, min(classes, dataset.num_classes)).round().long()
    images, labels = _take(dataset, chosen, per_class)
    term = parse_graph_term(finished.config)
    part, options = (None, {}) if term is None else (term.builder, term.part.bound.all)
    build: GraphBuilder = BUILDERS.build("knn") if part is None else part.build()
    drawn = min(per_class, max(drawn, math.ceil(build.min_nodes / len(chosen))))
    in_graph = torch.cat([(labels == place).nonzero().flatten()[:drawn] for place in range(len(chosen))])
    networks = {"teacher": finished.teacher, "student": finished.student}
    to_draw = Batch(images[in_graph], labels[in_graph], torch.arange(len(in_graph)))
    strong = "strong" in build.views
    virtual = make_views(["strong"], to_draw, dataset.info, lambda view: 0) if strong else None
    views = [
        _view(name, network, images, labels, in_graph, virtual, build)
        for name, network in networks.items()
        if network is not None
    ]
    if options.get("graphs_from") == "teacher":
        views = [replace(view, graph=views[0].graph) for view in views]
    pruned = options.get("prune_unreliable")
    if pruned is not None:
        own = entropies(views[-1].logits[in_graph])  # the student's
        others = own if virtual is None else entropies(_outputs(finished.student, virtual)[0])
        views = [replace(view, graph=_pruned(view, own, others, pruned)) for view in views]
    return Inspection(
        class_names=tuple(dataset.class_names[label] for label in chosen.tolist()),
        labels=labels,
        drawn=in_graph,
        networks=views,
        builder="knn" if part is None else part.name,
        pruned=pruned,
    )


def _take(dataset: Dataset, chosen: Tensor, per_class: int) -> tuple[Tensor, Tensor]:
    """Return the first test images of each chosen class, [B, ...], and the places of their classes, sorted by these."""
    found: list[list[Tensor]] = [[] for _ in chosen]
    for batch in dataset.eval_batches("test", 256, "cpu"):
        for place, label in enumerate(chosen):
            found[place] += list(batch.images[batch.labels == label][: per_class - len(found[place])])
        if all(len(of_class) == per_class for of_class in found):
            break
    counts = torch.tensor([len(of_class) for of_class in found])
    check(int(counts.sum()) > 0, "the test split has no image of the chosen classes")
    images = torch.stack([image for of_class in found for image in of_class])
    return images, torch.arange(len(chosen)).repeat_interleave(counts)


def _view(
    name: str, network: Network, images: Tensor, labels: Tensor, in_graph: Tensor, virtual: Tensor | None,
    builder: GraphBuilder,
) -> NetworkView:  # fmt: skip
    logits, embedding = _outputs(network, images)
    bank = FullBank(labels[in_graph], embedding.shape[1])
    bank.rows.copy_(embedding[in_graph])
    generator = torch.Generator().manual_seed(0)
    seen = (logits[in_graph], embedding[in_graph], labels[in_graph], torch.arange(len(in_graph)))
    nodes = Nodes(*seen, bank.view(), generator, None if virtual is None else Nodes(*_outputs(network, virtual)))
    try:
        graph = builder.build_checked(nodes)
    except UserError as error:
        raise UserError(f"the graph cannot be drawn: {error}") from None
    return NetworkView(name, logits, embedding, graph)


def _pruned(view: NetworkView, own: Tensor, others: Tensor, share: float) -> BatchGraph:
    """Return the graph without unreliable edges, from the student's entropies of the images and of support rows."""
    rows = view.graph.support_indices
    return prune(view.graph, own, others if rows is None else others[rows], share, view.logits.shape[1])


def _outputs(network: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and embeddings of unit length."""
    outputs = [network(part) for part in torch.split(images, 256)]
    embedding = torch.cat([output.embedding for output in outputs])
    return torch.cat([output.logits for output in outputs]), F.normalize(embedding, dim=1)
