"""What is computed in one process and in several, to be compared."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from samples import MAPS, TRAIN_LABELS, WIDTHS, batch, seeded
from torch import Tensor, nn

from graphkd import BUILDERS, DATASETS, GNNS, MODELS, OBJECTIVES, DistillationBatch, Trainer, WeightedSum
from graphkd.contrast import FullBank
from graphkd.data import Dataset
from graphkd.engine.callback import Callback, History
from graphkd.engine.checkpoint import Checkpoints
from graphkd.engine.environment import rank, world_size
from graphkd.engine.ranks import Ranks
from graphkd.engine.seeding import initialising
from graphkd.model import Network
from graphkd.model.base import output_shapes
from graphkd.objective import Objective
from graphkd.run.processes import wait

Found = dict[str, Any]
SIZES = (9, 1)
"""Samples of a batch: one that cannot be halved, and one that leaves a rank with nothing."""
HALF = 54
"""A batch size that leaves one of the 109 training digits to an epoch's last batch."""
TRAININGS: dict[str, dict[str, Any]] = {
    "ce": {},
    "hkd": {},
    "hkd sharded": {},
    "crd": {},
    "sp": {},
    "ab": {},
    "kd": {},
    "sskd": {},
    "hkd, last batch of one": {"batch_size": HALF},
    "hkd, accumulated": {"batch_size": 32, "accumulate": 2},
    "ce, clipped": {"clip_norm": 0.1},
    "ce, averaged by adamw": {"ema": 0.5, "optimizer": "adamw", "lr": 0.001},
    "ce, channels last": {"channels_last": True},
}


def cases(folder: Path) -> dict[str, Callable[[], Found]]:
    """Everything by its name."""
    made: dict[str, Callable[[], Found]] = {}
    for name in ("hkd", "crd", "sp", "at"):
        for size in SIZES:
            made[f"objective {name} on {size}"] = partial(objective_on_given, name, size)
    for name, options in TRAININGS.items():
        made[f"training {name}"] = partial(training, name.partition(",")[0], **options)
    made["banks drawn apart"] = drawn_apart
    made["interrupted"] = partial(interrupted, folder)
    return made


class StopAfter(Callback):
    """Interrupts the last process alone after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self) -> None:
        self.left -= 1
        if self.left == 0 and rank() == world_size() - 1:
            os.kill(os.getpid(), signal.SIGINT)


def trainer(**options: Any) -> Trainer:
    chosen = {"epochs": 2, "threads": 1, "accelerator": "cpu", "devices": world_size(), **options}
    return Trainer(**chosen)


def objective_on_given(name: str, size: int) -> Found:
    """Loss, gradients and banks of an objective in float64, each process being given its part of the embeddings."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"sp": {}, "at": {"student_shapes": MAPS["student"], "teacher_shapes": MAPS["teacher"]}}
    objective = OBJECTIVES.build(name, **options[name]) if name in options else contrast(name, TRAIN_LABELS, WIDTHS)
    objective.double()
    objective.prepare(torch.device("cpu"), lambda stream: seeded(1))
    fabric = trainer().fabric()
    fabric.launch()
    ranks = Ranks(fabric)
    whole = batch(size, 3, dtype=torch.float64)
    mine = ranks.local_slice(torch.arange(size))
    leaves: list[Tensor] = []

    def part(tensor: Tensor) -> Tensor:
        own = tensor.detach()[mine].requires_grad_(tensor.requires_grad)
        leaves.append(own)
        return own

    def together(output: Any) -> Any:
        return ranks.all_gather(output.map(part), size, 1, objective.needs_maps)

    assert whole.teacher is not None
    seen = DistillationBatch(together(whole.student), together(whole.teacher), whole.labels, whole.indices)
    loss = sum(objective(seen).values(), torch.zeros((), dtype=torch.float64))
    loss.backward()  # type: ignore[no-untyped-call]
    ranks.average_gradients(objective)
    objective.after_step()
    found: Found = {"loss": loss.detach()}
    own = len(torch.arange(size).tensor_split(ranks.world)[ranks.rank])
    for number, leaf in enumerate(leaves):
        if leaf.grad is not None:
            found[f"gradient {number}"] = gathered(leaf.grad[:own] / ranks.world, ranks)
            assert own or not leaf.grad.any(), "a stand-in counts nothing"
    found |= {f"gradient of {key}": value.grad for key, value in objective.named_parameters() if value.grad is not None}
    return found | banks(objective)


def drawn_apart() -> Found:
    """Banks of processes that drew them from seeds of their own, as a script without a seed does."""
    trainer().fabric().launch()
    torch.manual_seed(rank())
    objective = contrast("hkd", TRAIN_LABELS, WIDTHS)
    objective.prepare(torch.device("cpu"), lambda stream: seeded(1))
    return banks(objective)


def gathered(own: Tensor, ranks: Ranks) -> Tensor:
    parts: list[Any] = [own]
    if ranks.world > 1:
        parts = [None] * ranks.world
        torch.distributed.all_gather_object(parts, own)
    return torch.cat(parts)


def contrast(name: str, labels: Tensor, widths: dict[str, int], sharded: bool = False) -> Objective:
    graphs: dict[str, Any] = {}
    if name == "hkd":
        gnns = [GNNS.build("tag", in_dim=8, out_dim=8) for _ in range(2)]
        graphs = {"builder": BUILDERS.build("knn", k=4), "student_gnn": gnns[0], "teacher_gnn": gnns[1]}
    objective: Any = OBJECTIVES.build(
        name, student_dim=widths["student"], teacher_dim=widths["teacher"], labels=labels, dim=8, negatives=16,
        bank={"sharded": sharded}, **graphs,
    )  # fmt: skip
    return objective


def banks(objective: nn.Module) -> Found:
    """The whole banks, where there are some."""
    found: Found = {}
    for name, bank in vars(objective).items():
        if isinstance(bank, FullBank):
            own = [bank.rows]
            if bank.shard.world > 1:
                own = [torch.empty(0)] * bank.shard.world
                torch.distributed.all_gather_object(own, bank.rows)
            found[name] = torch.cat(own)
    return found


def training(name: str, with_batchnorm: bool = False, **options: Any) -> Found:
    """A whole training of a student, mostly without batch statistics, which are each process's own."""
    digits = DATASETS.build("digits", train_fraction=0.1)
    student, teacher = network(0, with_batchnorm), network(1, with_batchnorm=True)
    trained = trainer(**options)
    trained.fabric().launch()  # before the banks are shared out
    fit = trained.fit(student, terms(name, digits, student, teacher), digits, teacher=teacher)
    return dict(student.state_dict()) | {"figures": figures(fit), "steps": fit.steps}


def terms(name: str, digits: Dataset, student: Network, teacher: Network) -> WeightedSum:
    torch.manual_seed(0)
    name, _, sharded = name.partition(" ")
    shapes = [output_shapes(each, 1, 8) for each in (student, teacher)]
    wide = {"student": shapes[0].embedding, "teacher": shapes[1].embedding}
    dims = {f"{side}_dim": width for side, width in wide.items()}
    options: dict[str, Any] = {
        "ce": {},
        "sp": {},
        "ab": {"student_shapes": shapes[0].features, "teacher_shapes": shapes[1].features, "stage_epochs": 2},
        "kd": {"views": ("weak", "strong")},
        "sskd": {**dims, "stage_epochs": 1},
    }
    if name not in options:
        objective = contrast(name, digits.train_labels, wide, sharded=bool(sharded))
    else:
        objective = OBJECTIVES.build(name, **options[name])
    weighted: Any = {"ce": (OBJECTIVES.build("ce"), 1.0), name: (objective, 0.3)}
    return WeightedSum(weighted)


def network(seed: int, with_batchnorm: bool) -> Network:
    with initialising(seed, "student_init"):
        made = MODELS.build("resnet8", num_classes=10, in_channels=1, widths=(2, 2, 4, 4))
        for module in list(made.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d) and not with_batchnorm:
                    setattr(module, name, nn.GroupNorm(1, child.num_features))
    return made


def figures(fit: History) -> list[Any]:
    return [(e.stage, e.epoch, e.lr, e.total, e.terms, e.train_top1, e.val, e.test) for e in (*fit.stages, *fit.epochs)]


def interrupted(folder: Path) -> Found:
    """Trainings that one process's Ctrl-C cuts off, and the same without: bit for bit."""
    found: Found = {}
    digits = DATASETS.build("digits", train_fraction=0.1)
    for name, steps in {"hkd": 3, "hkd sharded": 2, "ab": 5}.items():
        ends = []
        for times in ([], [steps, None]):
            kept = folder / f"{name} {len(times)}"
            kept.mkdir(exist_ok=True)
            for stop in times or [None]:
                student, teacher = network(0, with_batchnorm=True), network(1, with_batchnorm=True)
                trained = trainer(ema=0.5, optimizer="adamw", lr=0.01)
                trained.fabric().launch()
                objective = terms(name, digits, student, teacher)
                callback = None if stop is None else StopAfter(stop)
                left = False
                try:
                    fit = trained.fit(
                        student, objective, digits, teacher=teacher, callback=callback,
                        checkpoints=Checkpoints(kept, "9999 steps"),
                    )  # fmt: skip
                except KeyboardInterrupt:
                    left = True
                assert left == (stop is not None)
                wait()  # the first process writes the checkpoint
                assert not left or list(kept.glob("checkpoint-*.pt"))
            ends.append((dict(student.state_dict()), figures(fit)))
        (whole, whole_figures), (resumed, resumed_figures) = ends
        found[f"{name}: same weights"] = all(torch.equal(whole[key], resumed[key]) for key in whole)
        found[f"{name}: same figures"] = whole_figures == resumed_figures
    return found


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    place = folder / "checkpoints"
    place.mkdir(exist_ok=True)
    found = {name: compute() for name, compute in cases(place).items()}
    torch.save(found, folder / f"rank-{rank()}.pt")
