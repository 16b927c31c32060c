"""Stages before the student's training, and going on from any step as if nothing had happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graphkd import BUILDERS, GNNS, MODELS, OBJECTIVES, DistillationBatch, WeightedSum
from graphkd.data import Dataset
from graphkd.engine import interrupts
from graphkd.engine.callback import Callback, EpochResult, History
from graphkd.engine.checkpoint import Checkpoints
from graphkd.engine.feed import Feed, Request
from graphkd.engine.interrupts import Interrupts
from graphkd.model import Network, output_shapes
from graphkd.objective import Objective, Stage
from graphkd.objective.base import Stream

STEPS = 2
"""Batches in an epoch of the tests' digits."""
EPOCHS = 2


class Staged(Objective):
    """Two stages, one with the student, of two views; afterwards the scale of the first is frozen."""

    name = "staged"
    views = ("weak", "rotated_90")
    needs_teacher = False

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.ones(()))
        self.second = nn.Linear(4, 4)
        self.seen: list[DistillationBatch] = []

    def stages(self) -> Sequence[Stage]:
        holder = nn.ParameterList([self.first])
        return (
            Stage("scale", epochs=1, loss=self._loss, modules=(holder,), lr=0.5, decay_at=(0.4,)),
            Stage("body", epochs=2, loss=self._loss, modules=(self.second,), trains_student=True, decay_at=(0.5,)),
        )

    def freeze(self) -> None:
        self.first.requires_grad_(False)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.second.parameters()), "lr_scale": 0.0}]

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        return {self.name: self._loss(batch)}

    def _loss(self, batch: DistillationBatch) -> Tensor:
        self.seen.append(batch)
        first, second = batch.student.embedding.split(len(batch.labels))
        return (self.first * self.second(first) - second).square().mean()


class StopAfter(Callback):
    """Sends a signal to this process after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


class Notes(Callback):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def state(*modules: nn.Module) -> list[Tensor]:
    return [value.clone() for module in modules for value in module.state_dict().values() if isinstance(value, Tensor)]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def hkd(digits: Dataset, sampler: str = "shared", kind: str = "full") -> WeightedSum:
    torch.manual_seed(0)
    gnns = [GNNS.build("tag", in_dim=8, out_dim=8) for _ in range(2)]
    objective = OBJECTIVES.build(
        "hkd", student_dim=4, teacher_dim=4, labels=digits.train_labels, dim=8, negatives=16, sampler=sampler,
        builder=BUILDERS.build("random", k=4), student_gnn=gnns[0], teacher_gnn=gnns[1],
        bank={"kind": kind, "length": 40 if kind == "queue" else None},
    )  # fmt: skip
    return WeightedSum({"ce": (OBJECTIVES.build("ce"), 1.0), "hkd": (objective, 0.3)})


def vrm() -> WeightedSum:
    objective = OBJECTIVES.build("vrm", builder=BUILDERS.build("random", k=4))
    return WeightedSum({"ce": (OBJECTIVES.build("ce", views=("strong",)), 1.0), "vrm": (objective, 1.0)})


def staged() -> WeightedSum:
    torch.manual_seed(0)
    return WeightedSum({"ce": (OBJECTIVES.build("ce"), 1.0), "staged": (Staged(), 1.0)})


OBJECTIVE: dict[str, Callable[[Dataset], WeightedSum]] = {
    "shared": hkd,
    "explicit": lambda digits: hkd(digits, "explicit"),
    "all": lambda digits: hkd(digits, "all"),
    "queue": lambda digits: hkd(digits, kind="queue"),
    "vrm": lambda digits: vrm(),
    "staged": lambda digits: staged(),
}


def without_times(fit: History) -> list[Any]:
    return [(e.stage, e.epoch, e.lr, e.total, e.terms, e.train_top1, e.val, e.test) for e in (*fit.stages, *fit.epochs)]


@pytest.fixture
def result(digits: Dataset, network: Callable[..., Network], trainer: Callable[..., Any]) -> Callable[..., Any]:
    """Trains, and gives the student, the objective and the figures, all but times."""

    def train(kind: str, callback: Callback | None = None, checkpoints: Checkpoints | None = None) -> Any:
        student, objective = network(), OBJECTIVE[kind](digits)
        fit = trainer(epochs=EPOCHS).fit(
            student, objective, digits, teacher=network(1), callback=callback, checkpoints=checkpoints
        )
        return state(student, objective), without_times(fit), fit.steps

    return train


def test_stages_come_first_and_train_what_they_say(
    digits: Dataset, network: Callable[..., Network], trainer: Callable[..., Any]
) -> None:
    student, objective = network(), staged()
    inner: Any = objective.objectives["staged"]
    before = {"student": state(student), "second": state(inner.second), "first": inner.first.item()}
    at_stage_end: dict[str, Any] = {}

    class Look(Callback):
        def epoch(self, epoch: EpochResult) -> None:
            at_stage_end[f"{epoch.stage} {epoch.epoch}"] = {
                "student": state(student), "second": state(inner.second), "first": inner.first.item()
            }  # fmt: skip

    fit = trainer(epochs=1).fit(student, objective, digits, callback=Look())
    assert [(epoch.stage, epoch.epoch, epoch.lr) for epoch in fit.stages] == [
        ("staged.scale", 1, 0.5), ("staged.body", 1, 0.05), ("staged.body", 2, pytest.approx(0.005)),
    ]  # fmt: skip
    assert [epoch.stage for epoch in fit.epochs] == [None]
    assert fit.steps == STEPS
    assert fit.stages[0].train_top1 is None
    assert fit.stages[1].train_top1 is not None
    scale, body, end = (at_stage_end[key] for key in ("staged.scale 1", "staged.body 2", "None 1"))
    assert scale["first"] != before["first"]
    assert equal(scale["student"], before["student"]), "not even its batch statistics"
    assert equal(scale["second"], before["second"])
    assert not equal(body["student"], scale["student"])
    assert not equal(body["second"], scale["second"])
    assert end["first"] == body["first"] == scale["first"], "frozen"
    assert equal(end["second"], body["second"]), "its group's learning rate is scaled by 0"


def test_a_stage_leaves_what_its_loss_does_not_reach(
    digits: Dataset, network: Callable[..., Network], trainer: Callable[..., Any]
) -> None:
    student = network()
    head = student.get_parameter("fc.weight").clone()
    heads: list[Tensor] = []

    class Look(Callback):
        def epoch(self, epoch: EpochResult) -> None:
            heads.append(student.get_parameter("fc.weight").clone())

    trainer(epochs=1).fit(student, staged(), digits, callback=Look())
    assert torch.equal(heads[2], head), "the stages look at the embedding: no step, no weight decay for the head"
    assert not torch.equal(heads[3], head)


@pytest.mark.parametrize("name", ["ab", "fsp"])
def test_the_stages_of_ab_and_fsp_leave_alone_what_is_behind_the_last_map(
    digits: Dataset, trainer: Callable[..., Any], name: str
) -> None:
    student, teacher = (MODELS.build("wrn_16_1", num_classes=10, in_channels=1) for _ in range(2))
    shapes = output_shapes(student, 1, 8).features
    objective = OBJECTIVES.build(name, student_shapes=shapes, teacher_shapes=shapes, stage_epochs=1)
    norm, inner = student.get_submodule("bn1"), student.get_submodule("block3.layer.0.bn1")
    before, inner_before = state(norm), state(inner)
    behind: list[bool] = []

    class Look(Callback):
        def epoch(self, epoch: EpochResult) -> None:
            behind.append(equal(state(norm), before))
            assert not equal(state(inner), inner_before)

    trainer(epochs=1).fit(student, WeightedSum({"ce": (OBJECTIVES.build("ce"), 1.0), name: (objective, 1.0)}), digits,
                          teacher=teacher, callback=Look())  # fmt: skip
    assert behind == [True, False]


def test_only_who_asked_for_views_gets_them(
    digits: Dataset, network: Callable[..., Network], trainer: Callable[..., Any], spy: Any
) -> None:
    objective = WeightedSum({"staged": (Staged(), 1.0), "spy": (spy, 1.0)})
    trainer(epochs=1).fit(network(), objective, digits)
    staged_term: Any = objective.objectives["staged"]
    seen = [(len(b.views), len(b.student.logits), len(b.labels)) for b in (*staged_term.seen[-2:], *spy.batches)]
    assert seen == [(2, 128, 64), (2, 90, 45), (1, 64, 64), (1, 45, 45)]
    assert [b.diagnostics is not None for b in staged_term.seen] == [False] * 6 + [True, False], "stages take none"


def test_loops_that_differ_in_maps_share_the_teachers_time(
    digits: Dataset, network: Callable[..., Network], trainer: Callable[..., Any]
) -> None:
    options = trainer()
    feed = Feed(options, options.fabric(), digits, network(), seed=0)
    waiting = [Request(None, 0, 0, with_teacher=True, with_maps=maps) for maps in (True, False, False)]
    costs = [feed.get(request, waiting).costs for request in waiting]
    assert [[(name, share) for name, _, share in each] for each in costs] == [[("data", 1 / 3), ("teacher", 1 / 3)]] * 3


@pytest.mark.parametrize("kind", OBJECTIVE)
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_stopped_anywhere_it_goes_on_bit_for_bit(
    kind: str, data: st.DataObject, result: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = result(kind)
    steps = STEPS * (EPOCHS + (3 if kind == "staged" else 0))
    folder = tmp_path_factory.mktemp("run")
    for stop in data.draw(st.lists(st.integers(1, steps), min_size=1, max_size=2)):
        left = min(stop, steps)
        try:
            result(kind, StopAfter(left), Checkpoints(folder, "9999 steps"))
        except KeyboardInterrupt:
            assert list(folder.glob("checkpoint-*.pt"))
    states, epochs, count = result(kind, None, Checkpoints(folder, "9999 steps"))
    assert equal(states, whole[0])
    assert epochs == whole[1]
    assert count == whole[2]


def test_a_torn_checkpoint_falls_back_to_the_one_before(result: Callable[..., Any], tmp_path: Path) -> None:
    whole = result("shared")
    with pytest.raises(KeyboardInterrupt):
        result("shared", StopAfter(3), Checkpoints(tmp_path, "1 steps"))
    kept = sorted(tmp_path.glob("checkpoint-*.pt"))
    assert len(kept) == 2
    content = kept[-1].read_bytes()
    for torn in (content[: len(content) // 2], content[:-1] + b"?", b""):
        kept[-1].write_bytes(torn)
        callback = Notes()
        states, _, _ = result("shared", callback, Checkpoints(tmp_path, "9999 steps"))
        assert equal(states, whole[0])
        damage = f"the checkpoint {kept[-1]} is truncated or was altered"
        assert callback.notes == [f"{damage}; resuming from the one before"]
    kept[0].write_bytes(b"")
    callback = Notes()
    states, _, _ = result("shared", callback, Checkpoints(tmp_path, "9999 steps"))
    assert equal(states, whole[0])
    assert len(callback.notes) == 2
    assert callback.notes[0].endswith("starting over")


def test_a_checkpoint_of_another_kind_of_device_is_not_gone_on_with(result: Callable[..., Any], tmp_path: Path) -> None:
    whole = result("shared")
    with pytest.raises(KeyboardInterrupt):
        result("shared", StopAfter(3), Checkpoints(tmp_path, "1 steps"))
    state, _ = Checkpoints(tmp_path, "1 steps").load()
    assert state is not None
    Checkpoints(tmp_path, "1 steps").save({**state, "device": "cuda"})
    callback = Notes()
    states, _, _ = result("shared", callback, Checkpoints(tmp_path, "9999 steps"))
    assert callback.notes == ["the checkpoint was written on cuda; on cpu, starting over"]
    assert equal(states, whole[0])


def test_dropout_belongs_to_the_seed_and_to_the_checkpoint(
    digits: Dataset, trainer: Callable[..., Any], network: Callable[..., Network], tmp_path: Path
) -> None:
    def train(
        disturbance: int, callback: Callback | None = None, checkpoints: Checkpoints | None = None
    ) -> list[Tensor]:
        student: Any = network()
        student.fc = nn.Sequential(nn.Dropout(0.5), student.fc)
        torch.manual_seed(disturbance)
        objective = WeightedSum({"ce": (OBJECTIVES.build("ce"), 1.0)})
        trainer(epochs=2).fit(student, objective, digits, callback=callback, checkpoints=checkpoints)
        return state(student)

    whole = train(0)
    assert equal(train(1), whole)
    with pytest.raises(KeyboardInterrupt):
        train(2, StopAfter(3), Checkpoints(tmp_path, "9999 steps"))
    assert equal(train(3, None, Checkpoints(tmp_path, "9999 steps")), whole)


def test_a_signal_that_is_passed_on_is_the_same_request(monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with Interrupts():
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGTERM)
            assert came == []
        assert came == [signal.SIGTERM]
        monkeypatch.setattr(interrupts, "_ECHO_S", 0.0)
        with Interrupts():
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
            assert came == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def interrupt(times: int, deliver: bool = False) -> int:
    """Sends Ctrl-C to itself within `Interrupts`; returns how many of them were held back."""
    held = 0
    try:
        with Interrupts() as held_back:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
                held += held_back.pending == signal.SIGINT
            if deliver:
                held_back.deliver()
                held = -1
    except KeyboardInterrupt:
        return held
    return -2


def test_a_signal_waits_for_whoever_looks_and_a_second_one_does_not() -> None:
    assert interrupt(1) == 1, "it comes at the end if nobody looks"
    assert interrupt(1, deliver=True) == 1
    assert interrupt(2) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Streamed(Objective):
    """Adds noise from its own stream."""

    name = "streamed"
    needs_teacher = False

    def prepare(self, device: torch.device, stream: Stream) -> None:
        super().prepare(device, stream)
        self.noise = stream("noise")

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        factor = torch.rand((), generator=self.noise)
        return {self.name: nn.functional.cross_entropy(factor * batch.student.logits, batch.labels)}


def test_every_stream_of_an_objective_is_in_the_checkpoint(
    digits: Dataset, trainer: Callable[..., Any], network: Callable[..., Network], tmp_path: Path
) -> None:
    def train(callback: Callback | None = None, checkpoints: Checkpoints | None = None) -> list[Tensor]:
        student = network()
        objective = WeightedSum({"streamed": (Streamed(), 1.0)})
        trainer(epochs=2).fit(student, objective, digits, callback=callback, checkpoints=checkpoints)
        return state(student)

    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(StopAfter(1), Checkpoints(tmp_path, "9999 steps"))
    assert equal(train(None, Checkpoints(tmp_path, "9999 steps")), whole)
