from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd import OBJECTIVES, DistillationBatch, Trainer, UserError, WeightedSum
from graphkd.data import Dataset, Split, TensorDataset
from graphkd.engine import loop
from graphkd.engine.callback import Callback, EpochResult, History
from graphkd.engine.seeding import derive, generator
from graphkd.model import Network
from graphkd.objective import Objective

MakeNetwork = Callable[..., Network]
MakeTrainer = Callable[..., Trainer]
Alone = Callable[[Objective], WeightedSum]


class Log(Callback):
    """Everything that a callback is told, as text."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, name: str, epochs: int, steps: int, done: int = 0) -> None:
        self.lines.append(f"start {name}: {epochs} x {steps}" + (f", {done} done" if done else ""))

    def resume(self, fit: History) -> None:
        self.lines.append(f"resume after {len(fit.stages)} + {len(fit.epochs)} epochs")

    def step(self) -> None:
        self.lines.append("step")

    def epoch(self, epoch: EpochResult) -> None:
        self.lines.append(f"epoch {epoch.epoch}")


def ce(weight: float = 1.0) -> WeightedSum:
    return WeightedSum({"ce": (OBJECTIVES.build("ce"), weight)})


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def naive_training(
    network: Network, dataset: Dataset, seed: int, lr_by_epoch: list[float], batch_size: int,
    momentum: float, weight_decay: float,
) -> list[float]:  # fmt: skip
    """SGD on cross-entropy in plain steps; returns the mean loss of each epoch's samples."""
    velocity: dict[str, Tensor] = {}
    losses = []
    for epoch, lr in enumerate(lr_by_epoch):
        network.train()
        order = torch.randperm(len(dataset.train_labels), generator=generator(seed, "order", epoch))
        total = 0.0
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batches = dataset.train_batches(chosen, batch_size, derive(seed, "augmentation", epoch), "cpu")
            images, labels, indices = next(iter(batches))
            assert torch.equal(indices, chosen)
            network.zero_grad()
            loss = F.cross_entropy(network(images).logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item() * len(chosen)
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    assert parameter.grad is not None
                    grad = parameter.grad.add(parameter, alpha=weight_decay)
                    velocity[name] = velocity[name].mul_(momentum).add_(grad) if name in velocity else grad
                    parameter.add_(velocity[name], alpha=-lr)
        losses.append(total / len(order))
    return losses


@pytest.mark.parametrize("seed", [0, 7])
def test_equals_a_naive_loop_bit_for_bit(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer, seed: int
) -> None:
    trained, naive = network(seed), network(seed)
    options = {"batch_size": 64, "momentum": 0.9, "weight_decay": 5e-4}
    fit = trainer(epochs=2, lr=0.1, decay_at=[0.5], decay=0.5, **options).fit(trained, ce(), digits, seed=seed)
    losses = naive_training(naive, digits, seed, [0.1, 0.05], **options)  # type: ignore[arg-type]
    assert equal(state(trained), state(naive))
    assert [epoch.lr for epoch in fit.epochs] == [0.1, 0.05]
    assert [epoch.total for epoch in fit.epochs] == pytest.approx(losses, rel=1e-6)
    assert fit.steps == 4, "109 samples are two batches, and the smaller one counts"


def test_the_learning_rate_falls_after_the_benchmarks_epochs() -> None:
    trainer = Trainer()
    assert trainer.decay_epochs == [150, 180, 210]
    rates = [trainer.lr_at(epoch) for epoch in range(240)]
    assert [epoch for epoch in range(1, 240) if rates[epoch] != rates[epoch - 1]] == [150, 180, 210]
    assert rates[0] == 0.05
    assert [rates[epoch] for epoch in (150, 180, 210)] == pytest.approx([5e-3, 5e-4, 5e-5])


@pytest.mark.parametrize(("epochs", "share", "fall"), [(1, 0.5, 1), (4, 0.1, 1), (4, 0.4, 2)])
def test_the_first_epoch_has_the_learning_rate_that_is_set(epochs: int, share: float, fall: int) -> None:
    trainer = Trainer(epochs=epochs, decay_at=[share])
    assert trainer.decay_epochs == [fall]
    assert trainer.lr_at(0) == trainer.lr


def test_every_epoch_shows_every_sample_once_in_another_order(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer, spy: Any, alone: Alone
) -> None:
    trainer(epochs=2).fit(network(), alone(spy), digits)
    assert [len(batch.indices) for batch in spy.batches] == [64, 45, 64, 45]
    first, second = (torch.cat([batch.indices for batch in spy.batches[at : at + 2]]) for at in (0, 2))
    assert torch.equal(first.sort().values, torch.arange(109))
    assert torch.equal(second.sort().values, torch.arange(109))
    assert not torch.equal(first, second)
    assert all(torch.equal(batch.labels, digits.train_labels[batch.indices]) for batch in spy.batches)
    assert [(p.step, p.epoch, p.epochs) for p in (batch.progress for batch in spy.batches)] == [
        (0, 0, 2), (1, 0, 2), (2, 1, 2), (3, 1, 2),
    ]  # fmt: skip


def test_the_objective_is_prepared_once_and_told_of_every_applied_step(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer, spy: Any, alone: Alone
) -> None:
    trainer(epochs=1).fit(network(), alone(spy), digits, seed=3)
    steps = [event.split(" at ")[0] for event in spy.events]
    assert steps == ["prepare on cpu", "forward", "after step", "forward", "after step"]
    assert spy.events[2] != "after step at scale 1.000000000", "after_step follows the optimizer's step"
    expected = torch.rand(4, generator=generator(3, "negatives/spy"))
    assert torch.equal(torch.rand(4, generator=spy.streams["negatives"]), expected)


def test_the_objectives_parameters_are_trained_by_the_same_optimizer(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer, spy: Any, alone: Alone
) -> None:
    student = network()
    batch = next(iter(digits.train_batches(
        torch.randperm(109, generator=generator(0, "order", 0)), 109, derive(0, "augmentation", 0), "cpu"
    )))  # fmt: skip
    scale = torch.ones((), requires_grad=True)
    loss = F.cross_entropy(scale * network().train()(batch.images).logits, batch.labels)
    (gradient,) = torch.autograd.grad(loss, scale)
    trainer(epochs=1, batch_size=109, lr=0.5, weight_decay=0.1).fit(student, alone(spy), digits)
    assert torch.allclose(spy.scale, 1 - 0.5 * (gradient + 0.1), atol=1e-6)


def test_a_teacher_is_frozen_and_left_as_it_was(digits: Dataset, network: MakeNetwork, trainer: MakeTrainer) -> None:
    teacher = network(1).train()
    before = state(teacher)
    objective = WeightedSum({"kd": (OBJECTIVES.build("kd"), 1.0)})
    trainer().fit(network(), objective, digits, teacher=teacher)
    assert equal(state(teacher), before)
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_the_teacher_sees_what_the_student_sees(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer, spy: Any, alone: Alone
) -> None:
    teacher = network(1).eval()
    spy.needs_teacher = True
    trainer(epochs=1).fit(network(), alone(spy), digits, teacher=teacher)
    order = torch.randperm(109, generator=generator(0, "order", 0))
    images = next(iter(digits.train_batches(order, 64, derive(0, "augmentation", 0), "cpu"))).images
    shown = spy.batches[0].teacher
    assert torch.equal(shown.logits, teacher(images).logits)
    assert not shown.logits.requires_grad


def test_one_seed_is_one_result_and_another_seed_another(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer
) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        torch.rand(3)  # the default generator must not matter
        student = network()
        trainer().fit(student, ce(), digits, seed=seed)
        return state(student)

    first = weights(0)
    assert equal(first, weights(0))
    assert not equal(first, weights(1))


def test_objectives_of_one_seed_see_the_same_batches(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer, spy: Any, alone: Alone
) -> None:
    trainer(epochs=1).fit(network(), alone(spy), digits)
    other = type(spy)()
    beside = WeightedSum({"kd": (OBJECTIVES.build("kd"), 0.9), "spy": (other, 1.0)})
    trainer(epochs=1).fit(network(), beside, digits, teacher=network(1))
    assert [batch.indices.tolist() for batch in spy.batches] == [batch.indices.tolist() for batch in other.batches]
    assert torch.equal(spy.batches[0].student.logits, other.batches[0].student.logits)


class Sometimes(Objective):
    """A term that only batches of at least 50 samples have."""

    name = "sometimes"
    needs_teacher = False

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        size = len(batch.labels)
        return {self.name: 0 * batch.student.logits.sum() + size} if size >= 50 else {}


def test_losses_are_means_over_the_samples_that_had_them(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer, spy: Any
) -> None:
    objective = WeightedSum({"spy": (spy, 2.0), "sometimes": (Sometimes(), 0.5)})
    epoch = trainer(epochs=1).fit(network(), objective, digits).epochs[0]
    assert epoch.terms["sometimes"] == {"raw": 64.0, "weighted": 32.0}
    assert epoch.terms["spy"]["weighted"] == pytest.approx(2 * epoch.terms["spy"]["raw"])
    assert epoch.total == pytest.approx(epoch.terms["spy"]["weighted"] + 32 * 64 / 109)
    correct = sum(int((batch.student.logits.argmax(1) == batch.labels).sum()) for batch in spy.batches)
    assert epoch.train_top1 == pytest.approx(100 * correct / 109)


class Explained(Objective):
    """Explains a batch by its number; every other one by NaN."""

    name = "explained"
    needs_teacher = False

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        if batch.diagnostics is not None:
            number = batch.progress.step
            batch.diagnostics["number"] = torch.tensor(float(number) if number % 2 == 0 else torch.nan)
        return {self.name: batch.student.logits.square().mean()}


def test_diagnostics_are_means_over_the_batches_that_are_asked_for_them(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "DIAGNOSED_EVERY", 3)
    history = trainer(batch_size=16).fit(network(), WeightedSum({"why": (Explained(), 1.0)}), digits)
    # Of 7 batches an epoch, those at 0, 3 and 6 are asked; 3, 7 and 13 are NaN.
    assert [epoch.diagnostics for epoch in history.epochs] == [{"why.number": 3.0}, {"why.number": 10.0}]
    history = trainer(epochs=6).fit(network(), WeightedSum({"why": (Explained(), 1.0)}), digits)
    asked = [{"why.number": 0.0}, {}, {}, {}, {"why.number": 8.0}, {"why.number": 10.0}]
    assert [epoch.diagnostics for epoch in history.epochs] == asked, "two batches an epoch"
    history = trainer(diagnostics=False).fit(network(), WeightedSum({"why": (Explained(), 1.0)}), digits)
    assert [epoch.diagnostics for epoch in history.epochs] == [{}, {}]


def test_evaluates_when_due_and_always_at_the_end(digits: Dataset, network: MakeNetwork, trainer: MakeTrainer) -> None:
    epochs = trainer(epochs=5, eval_every=2).fit(network(), ce(), digits).epochs
    assert [epoch.test is not None for epoch in epochs] == [False, True, False, True, True]
    assert [epoch.val is not None for epoch in epochs] == [False, True, False, True, True]


def test_agreement_is_measured_at_the_end_only(digits: Dataset, network: MakeNetwork, trainer: MakeTrainer) -> None:
    first, last = trainer().fit(network(), ce(), digits, teacher=network(1)).epochs
    assert first.test is not None
    assert last.test is not None
    assert first.test.agreement is None
    assert last.test.agreement is not None


def test_without_a_validation_split_there_are_no_validation_figures(network: MakeNetwork, trainer: MakeTrainer) -> None:
    split = Split(torch.randint(0, 255, (20, 1, 8, 8), dtype=torch.uint8), torch.arange(20) % 10)
    dataset = TensorDataset({"train": split, "test": split}, [str(digit) for digit in range(10)], (0.5,), (0.5,))
    epoch = trainer(epochs=1).fit(network(), ce(), dataset).epochs[0]
    assert epoch.val is None
    assert epoch.test is not None


def test_the_callback_hears_it_in_order(digits: Dataset, network: MakeNetwork, trainer: MakeTrainer) -> None:
    log = Log()
    trainer().fit(network(), ce(), digits, callback=log, name="pupil")
    assert log.lines == ["start pupil: 2 x 2", "step", "step", "epoch 1", "step", "step", "epoch 2"]


def test_times_memory_and_mode_afterwards(digits: Dataset, network: MakeNetwork, trainer: MakeTrainer) -> None:
    student = network()
    fit = trainer().fit(student, ce(), digits)
    assert not student.training
    assert fit.seconds_per_step == pytest.approx(sum(epoch.seconds for epoch in fit.epochs) / fit.steps)
    assert fit.peak_memory_mib > 0


class Threads(Objective):
    """Remembers how many threads torch had, and may fail."""

    name = "threads"
    needs_teacher = False

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails = fails
        self.seen = 0

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        self.seen = torch.get_num_threads()
        if self.fails:
            raise RuntimeError("out of luck")
        return {}


@pytest.mark.parametrize("fails", [False, True])
def test_torchs_threads_are_the_trainers_and_then_as_before(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer, alone: Alone, fails: bool
) -> None:
    objective, before = Threads(fails), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="out of luck") if fails else contextlib.nullcontext():
            trainer(threads=1).fit(network(), alone(objective), digits)
        assert (objective.seen, torch.get_num_threads()) == (1, 2)
    finally:
        torch.set_num_threads(before)


def test_an_objective_that_needs_a_teacher_says_so(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer, alone: Alone
) -> None:
    with pytest.raises(UserError, match="needs a teacher"):
        trainer().fit(network(), alone(OBJECTIVES.build("kd")), digits)


def test_weight_zero_trains_nothing_but_decay(digits: Dataset, network: MakeNetwork, trainer: MakeTrainer) -> None:
    student = network()
    before = state(student)["fc.weight"]
    trainer(epochs=1, batch_size=109, lr=0.5, weight_decay=0.1).fit(student, ce(0.0), digits)
    assert torch.allclose(state(student)["fc.weight"], 0.95 * before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_named(trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match="no CUDA device"):
        trainer(accelerator="cuda").fabric()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0), ("batch_size", 0), ("eval_every", 0), ("eval_batch_size", -1), ("threads", 0),
        ("lr", 0.0), ("lr", math.nan), ("momentum", -0.1), ("weight_decay", -1e-4), ("decay", -1.0),
        ("decay_at", [0.5, 1.0]), ("decay_at", [0.0]), ("decay_at", [150]),
    ],
)  # fmt: skip
def test_options_out_of_range_are_named(option: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"trainer: {option} is"):
        Trainer(**{option: value})


@pytest.mark.parametrize(
    ("options", "needed"), [({"momentum": 0.0}, "a momentum above 0"), ({"optimizer": "adamw"}, "optimizer=sgd")]
)
def test_nesterov_is_sgds_with_momentum(options: dict[str, Any], needed: str) -> None:
    with pytest.raises(UserError, match=f"nesterov=true needs {needed}"):
        Trainer(nesterov=True, **options)


@pytest.mark.parametrize(
    ("flags", "options", "told"),
    [
        ("fpu avx2 avx512f", {"precision": "bf16"}, True),
        ("fpu avx2 avx512f", {"teacher_precision": "bf16"}, True),
        ("fpu avx2 avx512f", {}, False),
        ("fpu avx512_bf16", {"precision": "bf16"}, False),
        ("asimd bf16", {"precision": "bf16"}, False),
    ],
)
def test_bf16_on_a_cpu_without_it_is_told(
    flags: str, options: dict[str, Any], told: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr("graphkd.engine.trainer._CPU_INFO", tmp_path / "cpuinfo")
    notes = Trainer(accelerator="cpu", **options).notes()
    assert [("bf16" in note, "choose trainer.precision=32" in note) for note in notes] == [(True, True)] * told
