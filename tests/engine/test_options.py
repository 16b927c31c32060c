"""The trainer's options: what each means, and that each goes on from a checkpoint bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_worker import contrast
from ranks_worker import network as small_network
from test_loop import StopAfter, without_times
from torch import Tensor, nn

from graphkd import MODELS, OBJECTIVES, DistillationBatch, Trainer, UserError, WeightedSum
from graphkd.batch import NetworkOutput, Progress
from graphkd.data import Batch, Dataset, Split, TensorDataset
from graphkd.engine.callback import Callback, EpochResult
from graphkd.engine.checkpoint import Checkpoints
from graphkd.engine.matmul import MatmulPrecision, matmul_precision
from graphkd.engine.trainer import checked_trainer
from graphkd.model import Network
from graphkd.objective import Objective

MakeTrainer = Callable[..., Trainer]
MakeNetwork = Callable[..., Network]
Alone = Callable[[Objective], WeightedSum]


def ce() -> WeightedSum:
    return WeightedSum({"ce": (OBJECTIVES.build("ce"), 1.0)})


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def close(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float) -> bool:
    same = all(torch.allclose(first[name], second[name], atol=tolerance, rtol=tolerance) for name in second)
    return first.keys() == second.keys() and same


class States(Callback):
    """A network's state after every step."""

    def __init__(self, watched: Network) -> None:
        self.watched = watched
        self.seen = [state(watched)]

    def step(self) -> None:
        self.seen.append(state(self.watched))


class Seen(Objective):
    """Records what it is shown."""

    name = "seen"
    needs_teacher = True

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[DistillationBatch] = []
        self.losses: list[torch.dtype] = []

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        self.batches.append(batch)
        product = batch.student.logits @ batch.student.logits.T
        self.losses.append(product.dtype)
        return {self.name: nn.functional.cross_entropy(batch.student.logits, batch.labels)}


@pytest.mark.parametrize("options", [{"batch_size": 32}, {"batch_size": 16, "accumulate": 2}], ids=str)
def test_micro_batches_equal_one_batch(digits: Dataset, trainer: MakeTrainer, options: dict[str, Any]) -> None:
    """64 + 45 samples, in halves or quarters: the last step's parts differ in size."""
    parts = {"accumulate": 2} if options["batch_size"] == 32 else {"accumulate": 4}
    whole, cut = small_network(0, with_batchnorm=False), small_network(0, with_batchnorm=False)
    of_whole = trainer(epochs=2, batch_size=64).fit(whole, ce(), digits)
    of_parts = trainer(epochs=2, **{**options, **parts}).fit(cut, ce(), digits)
    assert close(state(cut), state(whole), 1e-5)
    assert of_parts.steps == of_whole.steps == 4
    assert [e.total for e in of_parts.epochs] == pytest.approx([e.total for e in of_whole.epochs], rel=1e-5)


@pytest.mark.parametrize("samples_per_class", [1, 8])
def test_a_batch_has_groups_of_a_class(
    samples_per_class: int, digits: Dataset, trainer: MakeTrainer, network: MakeNetwork
) -> None:
    seen = Seen()
    trainer(epochs=1, samples_per_class=samples_per_class).fit(
        network(), WeightedSum({"seen": (seen, 1.0)}), digits, teacher=network()
    )
    labels = torch.cat([batch.labels for batch in seen.batches])
    repeats = int((labels[1:] == labels[:-1]).sum())
    smallest = len(labels) - sum(-(-count // 8) for count in labels.bincount().tolist())
    assert repeats >= smallest if samples_per_class == 8 else repeats < len(labels) / 4


def test_after_step_follows_applied_steps_alone(
    digits: Dataset, trainer: MakeTrainer, network: MakeNetwork, spy: Any, alone: Alone
) -> None:
    trainer(epochs=1, batch_size=32, accumulate=3).fit(network(), alone(spy), digits)
    told = [event.split(" at ")[0] for event in spy.events[1:]]
    assert told == ["forward", "forward", "forward", "after step", "forward", "after step"]
    assert [batch.progress.part for batch in spy.batches] == [0, 1, 2, 0]


@pytest.mark.parametrize("name", ["hkd", "crd"])
def test_every_micro_batch_is_banked(digits: Dataset, trainer: MakeTrainer, name: str) -> None:
    torch.manual_seed(0)
    objective: Any = contrast(name, digits.train_labels, {"student": 4, "teacher": 4})
    before = objective.student_bank.clone(), objective.teacher_bank.clone()
    student, teacher = small_network(0, with_batchnorm=True), small_network(1, with_batchnorm=True)
    trainer(epochs=1, batch_size=32, accumulate=4).fit(
        student, WeightedSum({name: (objective, 1.0)}), digits, teacher=teacher
    )
    for bank, old in zip((objective.student_bank, objective.teacher_bank), before, strict=True):
        assert (bank != old).any(dim=1).all()


def test_a_step_that_was_left_out_is_not_banked(digits: Dataset) -> None:
    objective: Any = contrast("crd", digits.train_labels, {"student": 4, "teacher": 4})
    old = objective.student_bank.clone()

    def batch(part: int, *indices: int) -> DistillationBatch:
        chosen = torch.tensor(indices)
        embedding = torch.randn(len(chosen), 4)
        output = NetworkOutput(torch.randn(len(chosen), 10), [], embedding)
        return DistillationBatch(output, output, digits.train_labels[chosen], chosen, progress=Progress(part=part))

    for part, *indices in ((0, 0, 1), (0, 2, 3), (1, 4, 5)):
        objective(batch(part, *indices))
    objective.after_step()
    assert (objective.student_bank != old).any(dim=1).nonzero().flatten().tolist() == [2, 3, 4, 5]


def test_a_steps_gradient_is_clipped_as_a_whole(
    digits: Dataset, trainer: MakeTrainer, network: MakeNetwork, spy: Any, alone: Alone
) -> None:
    """Student and objective together: with plain SGD the first step is as long as lr x clip_norm."""
    for clip_norm in (1e-3, None):
        student = network()
        start = [*state(student).values()], spy.scale.item()
        trainer(epochs=1, batch_size=109, lr=1.0, momentum=0, weight_decay=0, clip_norm=clip_norm).fit(
            student, alone(spy), digits
        )
        moved = [(new - old).square().sum() for (name, new), old in zip(state(student).items(), start[0], strict=True)
                 if name in dict(student.named_parameters())]  # fmt: skip
        length = math.sqrt(sum(map(float, moved)) + (spy.scale.item() - start[1]) ** 2)
        assert length == pytest.approx(1e-3, rel=1e-3) if clip_norm else length > 1e-2


def test_the_average_is_what_is_evaluated_and_kept(digits: Dataset, trainer: MakeTrainer, network: MakeNetwork) -> None:
    """After the first step the average is the student; then it moves by 1 - ema, batch statistics too."""
    plain, averaged = network(), network()
    steps = States(plain)
    trainer(epochs=2).fit(plain, ce(), digits, callback=steps)
    fit = trainer(epochs=2, ema=0.6).fit(averaged, ce(), digits)
    expected = steps.seen[1]
    for after in steps.seen[2:]:
        expected = {
            name: 0.6 * old + 0.4 * after[name] if old.is_floating_point() else after[name]
            for name, old in expected.items()
        }
    found = {name: tensor for name, tensor in state(averaged).items() if tensor.is_floating_point()}
    assert close(found, {name: expected[name] for name in found}, 1e-6)
    from graphkd.engine.evaluate import evaluate

    last = fit.epochs[-1].test
    assert last is not None
    assert evaluate(averaged, digits, "test").nll == pytest.approx(last.nll)
    assert evaluate(plain, digits, "test").nll != pytest.approx(last.nll)


def test_adamw_is_torchs(digits: Dataset, trainer: MakeTrainer, network: MakeNetwork) -> None:
    optimizer = trainer(optimizer="adamw", lr=0.01, momentum=0.8, weight_decay=0.3).make_optimizer(
        [{"params": list(network().parameters())}], 0.01
    )
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.8, 0.999)
    assert optimizer.defaults["weight_decay"] == 0.3


def test_half_a_cosine() -> None:
    trainer = Trainer(epochs=4, lr=0.2, schedule="cosine")
    expected = [0.2, 0.1 * (1 + 0.5**0.5), 0.1, 0.1 * (1 - 0.5**0.5)]
    assert [trainer.lr_at(epoch) for epoch in range(4)] == pytest.approx(expected)
    assert trainer.lr_at(1, epochs=2, lr=1.0, falls=[0]) == pytest.approx(0.5)


@pytest.mark.parametrize(("precision", "teacher", "expected"), [
    (32, None, (torch.float32, torch.float32)),
    ("bf16", None, (torch.bfloat16, torch.bfloat16)),
    ("bf16", 32, (torch.bfloat16, torch.float32)),
    (32, "bf16", (torch.float32, torch.bfloat16)),
])  # fmt: skip
def test_precision_is_the_networks_alone(
    digits: Dataset, trainer: MakeTrainer, network: MakeNetwork, precision: Any, teacher: Any, expected: Any
) -> None:
    """The networks run in theirs, the objective in float32, and weights stay float32."""
    networks, objective = (network(), network(1)), Seen()
    ran: list[list[torch.dtype]] = [[], []]
    for each, dtypes in zip(networks, ran, strict=True):
        head: Any = each.get_submodule("fc")
        head.register_forward_hook(lambda m, i, output, d=dtypes, e=each: d.append(output.dtype))
    fit = trainer(epochs=1, precision=precision, teacher_precision=teacher, eval_every=9).fit(
        networks[0], WeightedSum({"seen": (objective, 1.0)}), digits, teacher=networks[1]
    )
    assert (ran[0][0], ran[1][0]) == expected
    assert {objective.losses[0], objective.batches[0].student.embedding.dtype} == {torch.float32}
    assert objective.batches[0].teacher is not None
    assert objective.batches[0].teacher.logits.dtype == torch.float32
    assert {tensor.dtype for tensor in networks[0].parameters()} == {torch.float32}
    assert ran[0][-1] == torch.float32, "evaluation is exact"
    assert math.isfinite(fit.epochs[-1].total)


def test_channels_last_is_the_same_rounded_otherwise(
    digits: Dataset, trainer: MakeTrainer, network: MakeNetwork
) -> None:
    plain, turned = network(), network()
    before = trainer(epochs=1).fit(plain, ce(), digits)
    after = trainer(epochs=1, channels_last=True).fit(turned, ce(), digits)
    assert turned.get_parameter("conv1.weight").is_contiguous(memory_format=torch.channels_last)
    assert close(state(turned), state(plain), 1e-5)
    assert after.epochs[0].total == pytest.approx(before.epochs[0].total, rel=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_the_layout_of_images_is_the_option_not_the_data(
    channels_last: bool, turned: bool, trainer: MakeTrainer
) -> None:
    """Decoded images come channels last, where oneDNN spoils gradients: see `graphkd.engine.convolutions`."""
    split = Split(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))

    class Turned(TensorDataset):
        def train_batches(self, *arguments: Any) -> Iterator[Batch]:
            layout = torch.channels_last if turned else torch.contiguous_format
            for batch in super().train_batches(*arguments):
                yield batch._replace(images=batch.images.contiguous(memory_format=layout))

    dataset = Turned({"train": split, "test": split}, "ab", [0.5] * 3, [0.5] * 3)
    student = MODELS.build("resnet8", num_classes=2, in_channels=3, widths=(2, 2, 4, 4))
    seen: list[bool] = []
    student.get_submodule("conv1").register_forward_pre_hook(
        lambda layer, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    trainer(epochs=1, batch_size=4, channels_last=channels_last, eval_every=9).fit(student, ce(), dataset)
    assert seen[0] is channels_last


@pytest.mark.parametrize("level", ["highest", "medium"])
def test_matmul_precision_holds_within_a_training(
    level: MatmulPrecision, digits: Dataset, trainer: MakeTrainer, network: MakeNetwork
) -> None:
    seen = []

    class Looks(Callback):
        def epoch(self, epoch: EpochResult) -> None:
            seen.append(torch.get_float32_matmul_precision())

    with matmul_precision("high"):
        trainer(epochs=1, matmul_precision=level).fit(network(), ce(), digits, callback=Looks())
        assert torch.get_float32_matmul_precision() == "high"
    assert seen == [level]


OPTIONS: dict[str, dict[str, Any]] = {
    "adamw and cosine": {"optimizer": "adamw", "schedule": "cosine", "lr": 0.01},
    "accumulate": {"batch_size": 16, "accumulate": 3},
    "samples_per_class": {"samples_per_class": 4},
    "clip_norm": {"clip_norm": 0.1},
    "ema": {"ema": 0.7},
    "bf16": {"precision": "bf16"},
    "channels_last": {"channels_last": True},
    "all": {"optimizer": "adamw", "lr": 0.01, "batch_size": 32, "accumulate": 2, "clip_norm": 1.0, "ema": 0.7,
            "precision": "bf16", "channels_last": True},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_each_goes_on_bit_for_bit(name: str, digits: Dataset, trainer: MakeTrainer, tmp_path: Path) -> None:
    def train(stop: int | None = None, kept: bool = True) -> Any:
        torch.manual_seed(0)
        student = small_network(0, with_batchnorm=True)
        objective = contrast("hkd", digits.train_labels, {"student": 4, "teacher": 4})
        fit = trainer(epochs=2, **OPTIONS[name]).fit(
            student, WeightedSum({"ce": (OBJECTIVES.build("ce"), 1.0), "hkd": (objective, 0.3)}), digits,
            teacher=small_network(1, with_batchnorm=True), callback=None if stop is None else StopAfter(stop),
            checkpoints=Checkpoints(tmp_path, "9999 steps") if kept else None,
        )  # fmt: skip
        banks: Any = objective
        return {**state(student), "bank": banks.student_bank.clone()}, without_times(fit), fit.steps

    whole = train(kept=False)
    with pytest.raises(KeyboardInterrupt):
        train(stop=3)
    assert list(tmp_path.glob("checkpoint-*.pt"))
    states, epochs, steps = train()
    assert all(torch.equal(states[key], whole[0][key]) for key in states)
    assert (epochs, steps) == whole[1:]


@pytest.mark.parametrize(("options", "message"), [
    ({"samples_per_class": 0}, "trainer: samples_per_class is 0, but must be at least 1"),
    ({"samples_per_class": 65}, "trainer: samples_per_class is 65, but a batch has 64 samples"),
    ({"accumulate": 0}, "trainer: accumulate is 0, but must be at least 1"),
    ({"clip_norm": 0.0}, "trainer: clip_norm is 0.0, but must be positive or null"),
    ({"ema": 1.0}, "trainer: ema is 1.0, but must be between 0 and 1, or null"),
    ({"optimizer": "adamw", "momentum": 1.0}, "trainer: momentum is 1.0, but AdamW's must be below 1"),
    ({"devices": 0}, "trainer: devices is 0, but must be at least 1"),
    ({"devices": 4, "nodes": 2, "batch_size": 7}, "batch_size is 7, but must be at least 1 for each of 8 devices"),
    ({"checkpoint_every": "often"}, "checkpoint_every is 'often'"),
    ({"optimizer": "adam"}, "trainer: option 'optimizer' is 'adam', but must be one of sgd, adamw"),
    ({"precision": "16"}, "trainer: option 'precision' is '16', but must be one of 32, bf16, 16"),
    ({"epochs": 2.5}, "trainer: option 'epochs' is 2.5, but must be an integer"),
    ({"lr": math.inf}, "trainer: lr is inf, but must be finite"),
])  # fmt: skip
def test_wrong_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Trainer(**options)
    assert message in str(error.value)


def test_values_are_of_the_annotated_types() -> None:
    made = Trainer(lr=1, decay_at=[0.5])
    assert (made.lr, type(made.lr), made.decay_at) == (1.0, float, (0.5,))


def test_a_message_names_the_node_once() -> None:
    with pytest.raises(UserError, match=r"^teacher_trainer: option 'schedule' is 'cos', but must be one of steps"):
        checked_trainer({"schedule": "cos"}, "teacher_trainer")


def test_half_precision_needs_cuda(digits: Dataset, trainer: MakeTrainer, network: MakeNetwork) -> None:
    for option in ("precision", "teacher_precision"):
        with pytest.raises(UserError, match="precision is 16, which needs CUDA"):
            trainer(**{option: 16}).fit(network(), ce(), digits)


def test_an_epoch_is_not_cut_by_the_last_step(digits: Dataset, trainer: MakeTrainer, network: MakeNetwork) -> None:
    """The last step of an epoch has what is left of it; nothing is carried over."""
    epochs: list[EpochResult] = []

    class Look(Callback):
        def epoch(self, epoch: EpochResult) -> None:
            epochs.append(epoch)

    fit = trainer(epochs=2, batch_size=20, accumulate=4).fit(network(), ce(), digits, callback=Look())
    assert fit.steps == 4, "6 batches an epoch are a step of 4 and one of 2"
    assert len(epochs) == 2
