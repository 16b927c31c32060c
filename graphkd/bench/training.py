"""Cases of the whole HKD loss and of the whole training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch, NetworkOutput
from graphkd.bench.case import Case, Settings, Sides, Work
from graphkd.bench.published import PublishedHKD, Sampler
from graphkd.builder import BUILDERS
from graphkd.gnn import GNNS, GraphEncoder
from graphkd.graph import dgl_supports
from graphkd.model import MODELS, Network, output_shapes
from graphkd.objective import OBJECTIVES, Objective, WeightedSum

IMAGE_SIZE = 32
HKD_WEIGHT = 3.0


def loss_cases(settings: Settings) -> list[Case]:
    """HKD forward and backward, with the update of its banks."""
    note = "explicit gets the baseline's indices, shared draws its own"
    return [Case("loss", partial(loss, settings), _with_encoder(note, settings))]


def step_cases(settings: Settings) -> list[Case]:
    """A training step with the sampling of its negatives."""
    note = f"{settings.teacher} and {settings.student} on both sides, CE + {HKD_WEIGHT:g} HKD, sampling included"
    return [Case("step", partial(step, settings), _with_encoder(note, settings), memory="full")]


def loss(settings: Settings) -> Sides:
    """Heads, graphs, encoders, contrast and banks, from the networks' outputs on."""
    width = settings.feature_dim
    student, teacher = (_output(settings, network) for network in ("student", "teacher"))
    student.embedding.requires_grad_()
    labels, indices = settings.training_labels(), settings.indices()
    batch = DistillationBatch(student, teacher, labels[indices], indices)
    given = replace(batch, negatives=Sampler(labels, settings.negatives, settings.seed).draw(batch.labels))

    def work(objective: PublishedHKD | Objective, batch: DistillationBatch) -> None:
        terms = objective(batch)
        total = terms if isinstance(terms, Tensor) else sum(terms.values())
        torch.autograd.grad(total, [student.embedding, *objective.parameters()])
        objective.after_step()

    return Sides(
        partial(work, _published(settings, width, width), given),
        {
            "explicit": partial(work, _hkd(settings, width, width, "explicit"), given),
            "shared": partial(work, _hkd(settings, width, width, "shared"), batch),
        },
    )


def step(settings: Settings) -> Sides:
    """Networks, loss and optimizer on random images."""
    labels, indices = settings.training_labels(), settings.indices()
    sampler = Sampler(labels, settings.negatives, settings.seed)
    images = settings.normal("images", settings.batch, 3, IMAGE_SIZE, IMAGE_SIZE)
    teacher, *students = (_network(name, settings) for name in (settings.teacher, settings.student, settings.student))
    teacher.eval()
    dims = [output_shapes(network, 3, IMAGE_SIZE).embedding for network in (students[0], teacher)]
    published = _published(settings, dims[0], dims[1])
    hkd = _hkd(settings, dims[0], dims[1], "shared")
    ours = WeightedSum({"ce": (OBJECTIVES.build("ce"), 1.0), "hkd": (hkd, HKD_WEIGHT)})

    def published_loss(batch: DistillationBatch) -> Tensor:
        given = replace(batch, negatives=sampler.draw(batch.labels))
        hkd_loss: Tensor = published(given)
        return F.cross_entropy(batch.student.logits, batch.labels) + HKD_WEIGHT * hkd_loss

    def work(student: Network, objective: PublishedHKD | WeightedSum, loss: Callable[..., Tensor]) -> Work:
        parameters = [*student.parameters(), *objective.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)

        def train() -> None:
            with torch.no_grad():
                known = teacher(images)
            optimizer.zero_grad()
            torch.autograd.backward(loss(DistillationBatch(student(images), known, labels[indices], indices)))
            optimizer.step()
            objective.after_step()

        return train

    return Sides(
        work(students[0], published, published_loss),
        {"shared": work(students[1], ours, lambda batch: ours(batch).total)},
    )


def _output(settings: Settings, network: str) -> NetworkOutput:
    logits = 3 * settings.normal(f"{network} logits", settings.batch, settings.classes)
    return NetworkOutput(logits, [], settings.normal(f"{network} embedding", settings.batch, settings.feature_dim))


def _network(name: str, settings: Settings) -> Network:
    return MODELS.build(name, num_classes=settings.classes).to(settings.device)


def _published(settings: Settings, student_dim: int, teacher_dim: int) -> PublishedHKD:
    hkd = PublishedHKD(student_dim, teacher_dim, settings.samples, settings.dim, settings.k)
    return hkd.to(settings.device)


def _hkd(settings: Settings, student_dim: int, teacher_dim: int, sampler: str) -> Objective:
    hkd = OBJECTIVES.build(
        "hkd", student_dim=student_dim, teacher_dim=teacher_dim, labels=settings.training_labels(),
        builder=BUILDERS.build("knn", k=settings.k), student_gnn=_tag(settings), teacher_gnn=_tag(settings),
        dim=settings.dim, negatives=settings.negatives, sampler=sampler,
    )  # fmt: skip
    hkd.prepare(torch.device(settings.device), settings.generator)
    return hkd


def _tag(settings: Settings) -> GraphEncoder:
    return GNNS.build("tag", in_dim=settings.dim, out_dim=settings.dim)


def _with_encoder(note: str, settings: Settings) -> str:
    """The note, with what becomes of the baseline's encoder on a device that DGL does not know."""
    known = dgl_supports(settings.device)
    return note if known else f"{note}; the installed DGL does not know {settings.device}: baseline's encoder by hand"
