"""Cases of the whole HKD loss and of the whole training step."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch, NetworkOutput
from graphkd.bench.case import Case, Settings, Sides, Work
from graphkd.bench.data import IMAGE_SIZE, batched, per_image
from graphkd.bench.published import PublishedHKD, Sampler
from graphkd.bench.stepwise import Stepwise, shares, time_objectives_backward
from graphkd.builder import BUILDERS
from graphkd.contrast.options import BankOptions
from graphkd.engine.clock import Clock
from graphkd.engine.trainer import Trainer
from graphkd.gnn import GNNS
from graphkd.graph import dgl_supports
from graphkd.model import MODELS, Network, output_shapes
from graphkd.objective import OBJECTIVES, Objective, WeightedSum
from graphkd.objective.contrastive import ContrastiveObjective

HKD_WEIGHT = 3.0
STEPS = 8
"""At once where worker processes load ahead, which they should not do while the other side has its turn."""
WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32 channels_last": {"channels_last": True},
    "bf16 channels_last": {"channels_last": True, "precision": "bf16"},
    "bf16 channels_last, medium": {"channels_last": True, "precision": "bf16", "matmul_precision": "medium"},
}
"""The trainer's options, by row."""


def loss_cases(settings: Settings) -> list[Case]:
    """Return HKD forward and backward, with the update of its banks."""
    note = "explicit gets the baseline's indices, shared draws its own"
    return [Case("loss", partial(loss, settings), _with_encoder(note, settings))]


def step_cases(settings: Settings) -> list[Case]:
    """Return a training step with the sampling of its negatives."""
    note = (
        f"{settings.teacher} and {settings.student} on both sides, CE + {HKD_WEIGHT:g} HKD; in the baseline each image "
        "is augmented and gets its negatives by itself, on our side batches as the trainer takes them; medium is the "
        "trainer's matmul_precision"
    )
    note = _with_encoder(note, settings)
    return [
        Case("step", partial(step, settings, workers=0, steps=1), note, memory="full"),
        Case("step", partial(step, settings, workers=2, steps=STEPS), note, False, "never", steps=STEPS),
    ]


def loss(settings: Settings) -> Sides:
    """Return heads, graphs, encoders, contrast and banks, from the networks' outputs on."""
    width, batch = settings.feature_dim, _batch(settings)
    negatives = Sampler(settings.training_labels(), settings.negatives, settings.seed).draw(batch.labels)
    given = replace(batch, negatives=negatives)
    ours: dict[str, Work] = {
        "explicit": partial(_learn, _hkd(settings, width, width, "explicit"), given),
        "shared": objective_step(settings),
    }
    return Sides(partial(_learn, _published(settings, width, width), given), ours)


def objective_step(settings: Settings, bank: BankOptions = BankOptions()) -> Work:  # noqa: B008 (immutable)
    """Return our side of `loss` with the sampler `shared` and banks of a kind."""
    width = settings.feature_dim
    hkd = _hkd(settings, width, width, "shared", bank)
    if bank.length is not None:
        assert isinstance(hkd, ContrastiveObjective)
        values = settings.normal("queue", bank.length, settings.dim)
        for queue in (hkd._student_bank, hkd._teacher_bank):  # queues begin empty
            queue.update(torch.arange(bank.length, device=settings.device), values, momentum=0.0)
    return partial(_learn, hkd, _batch(settings))


def _batch(settings: Settings) -> DistillationBatch:
    """Return random outputs of both networks, the student's with gradient."""

    def output(network: str) -> NetworkOutput:
        logits = 3 * settings.normal(f"{network} logits", settings.batch, settings.classes)
        return NetworkOutput(logits, [], settings.normal(f"{network} embedding", settings.batch, settings.feature_dim))

    student, teacher = output("student"), output("teacher")
    student.embedding.requires_grad_()
    indices = settings.indices()
    return DistillationBatch(student, teacher, settings.training_labels()[indices], indices)


def _learn(objective: PublishedHKD | Objective, batch: DistillationBatch) -> None:
    terms = objective(batch)
    total = terms if isinstance(terms, Tensor) else sum(terms.values())
    torch.autograd.grad(total, [batch.student.embedding, *objective.parameters()])
    objective.after_step()


def step(settings: Settings, workers: int, steps: int) -> Sides:
    """Return data, networks, loss and optimizer, so many steps at once; `workers` load the baseline's images."""
    teacher = network(settings.teacher, settings)
    baseline = PublishedTraining(settings, teacher, workers, steps)
    dataset = batched(settings)
    ours = {}
    for name, options in WAYS.items():
        trainer = Trainer(batch_size=settings.batch, accelerator=settings.device, **options)  # type: ignore[arg-type]
        student = network(settings.student, settings)
        hkd = _hkd(settings, *_widths(student, teacher), sampler="shared")
        objective = WeightedSum({"ce": (OBJECTIVES.build("ce"), 1.0), "hkd": (hkd, HKD_WEIGHT)})
        ours[name] = Stepwise(trainer, student, objective, dataset, copy.deepcopy(teacher), settings.seed)
    clocks = {"baseline": baseline.clock} | {name: training.clock for name, training in ours.items()}

    def work(training: Stepwise | PublishedTraining) -> None:
        for _ in range(steps):
            training.step()

    suffix = f", {workers} workers in the baseline" if workers else ""
    return Sides(
        partial(work, baseline),
        {f"{name}{suffix}": partial(work, training) for name, training in ours.items()},
        lambda: "; ".join(f"{name}: {shares(clock)}" for name, clock in clocks.items()),
    )


class PublishedTraining:
    """The step of the released code; the sections of `clock` are those of the engine."""

    def __init__(self, settings: Settings, teacher: Network, workers: int, batches: int) -> None:
        """Create a training whose loader has worker processes and passes of so many batches."""
        self.teacher = copy.deepcopy(teacher).eval()
        self.student = network(settings.student, settings)
        self.hkd = _published(settings, *_widths(self.student, teacher))
        parameters = [*self.student.parameters(), *self.hkd.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)
        self.clock = Clock(torch.device(settings.device))
        self._batches = per_image(settings, batches, workers)
        self._device = settings.device

    def step(self) -> None:
        """Take a step."""
        section = self.clock.section
        with section("data"):
            images, labels, indices, negatives = (part.to(self._device) for part in next(self._batches))
        with section("student"):
            student = self.student(images)
        with section("teacher"), torch.no_grad():
            teacher = self.teacher(images)
        with section("ce"):
            loss = F.cross_entropy(student.logits, labels)
        with section("hkd"):
            batch = DistillationBatch(student, teacher, labels, indices, negatives=negatives)
            loss = loss + HKD_WEIGHT * self.hkd(batch)
        time_objectives_backward(student, self.clock)
        with section("backward"):
            torch.autograd.backward(loss)
        with section("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.hkd.after_step()


def _widths(student: Network, teacher: Network) -> tuple[int, int]:
    """Return the widths of both embeddings."""
    return output_shapes(student, 3, IMAGE_SIZE).embedding, output_shapes(teacher, 3, IMAGE_SIZE).embedding


def network(name: str, settings: Settings) -> Network:
    """Return a network on the device, for the benchmark's classes."""
    return MODELS.build(name, num_classes=settings.classes).to(settings.device)


def _published(settings: Settings, student_dim: int, teacher_dim: int) -> PublishedHKD:
    hkd = PublishedHKD(student_dim, teacher_dim, settings.samples, settings.dim, settings.k)
    return hkd.to(settings.device)


def _hkd(
    settings: Settings, student_dim: int, teacher_dim: int, sampler: str,
    bank: BankOptions = BankOptions(),  # noqa: B008 (immutable)
) -> Objective:  # fmt: skip
    student_gnn, teacher_gnn = (GNNS.build("tag", in_dim=settings.dim, out_dim=settings.dim) for _ in range(2))
    hkd = OBJECTIVES.build(
        "hkd", student_dim=student_dim, teacher_dim=teacher_dim, labels=settings.training_labels(),
        builder=BUILDERS.build("knn", k=settings.k), student_gnn=student_gnn, teacher_gnn=teacher_gnn,
        dim=settings.dim, negatives=settings.negatives, sampler=sampler, bank=bank,
    )  # fmt: skip
    hkd.prepare(torch.device(settings.device), settings.generator)
    return hkd


def _with_encoder(note: str, settings: Settings) -> str:
    """Return the note, with what becomes of the baseline's encoder on a device that DGL does not know."""
    known = dgl_supports(settings.device)
    return note if known else f"{note}; the installed DGL does not know {settings.device}: baseline's encoder by hand"
