"""The training loop of one student: the stages of its objective, then its own epochs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from graphkd.batch import DistillationBatch, Progress
from graphkd.data import Dataset
from graphkd.data.views import in_order
from graphkd.engine import memory
from graphkd.engine.callback import Callback, EpochResult, History
from graphkd.engine.checkpoint import Checkpoints
from graphkd.engine.clock import Clock, Span
from graphkd.engine.compiling import private_compile_cache
from graphkd.engine.evaluate import Evaluation, evaluate
from graphkd.engine.feed import Fed, Request
from graphkd.engine.guard import Guard
from graphkd.engine.meter import EpochMeans, EpochMeter
from graphkd.engine.options import TrainerOptions, decay_epochs
from graphkd.engine.ranks import Ranks
from graphkd.engine.seeding import derive, generator, seed_default
from graphkd.model import Network
from graphkd.model.base import parts_behind_the_maps
from graphkd.objective import Losses, Objective, Stage, WeightedSum
from graphkd.objective.weighted_sum import Section

if TYPE_CHECKING:
    from lightning_fabric import Fabric


DIAGNOSED_EVERY, DIAGNOSED_APART = 32, 8
"""Diagnostics are taken on every 32nd batch. Where an epoch has fewer than 8 batches, only every ceil(8 / batches)-th
epoch and the last one take any. So they cost less than 1 % of the time: 0.1 to 0.5 % at 50,000 images, about 0.7 % at
two batches an epoch."""


@dataclass(frozen=True)
class Phase:
    """Training by one optimizer: a stage of the objective, or the student's own epochs.

    Attributes:
        name: The stage's name; None for the student's own training.
        epochs: Passes over the training data.
        lr: Learning rate at the start.
        decay_epochs: Epochs after which it falls.
        groups: The optimizer's parameter groups.
        loss: Computes the losses of a batch.
        trains_student: Whether the student is trained.
        views: Names of the views of each sample.
        with_teacher: Whether it needs the teacher's output.
        resting: Parts of the student that are frozen, in eval mode.
    """

    name: str | None
    epochs: int
    lr: float
    decay_epochs: list[int]
    groups: list[dict[str, Any]]
    loss: Callable[[DistillationBatch, Section], Losses]
    trains_student: bool
    views: tuple[str, ...]
    with_teacher: bool
    resting: Sequence[nn.Module] = ()


@dataclass
class Position:
    """Position of a training: the phase, epoch and batch that come next."""

    phase: int = 0
    epoch: int = 0
    batch: int = 0


class TrainingLoop:
    """Training loop of one student: the pre-training stages of its objective, then its own epochs.

    `run` requests batches and receives them, so that several loops can train on one stream of batches.
    """

    def __init__(
        self, options: TrainerOptions, fabric: Fabric, student: Network, objective: WeightedSum, dataset: Dataset, *,
        teacher: Network | None = None, seed: int = 0, callback: Callback | None = None, name: str = "student",
        checkpoints: Checkpoints | None = None,
    ) -> None:  # fmt: skip
        """Move networks and objective to the device; arguments as in `Trainer.fit`."""
        self.options, self.dataset, self.seed, self.teacher = options, dataset, seed, teacher
        self.callback, self.name, self.checkpoints = callback or Callback(), name, checkpoints
        self.fabric, self.device, self.ranks = fabric, fabric.device, Ranks(fabric)
        self.student, self.objective = student, objective
        self.leave: Callable[[], None] = lambda: None
        """Called wherever the training may stop; `train_together` sets it."""
        self.stages = objective.stages()
        self.generators: dict[str, torch.Generator] = {}
        objective.train()
        objective.prepare(self.device, self._stream)
        self._set_up_student()
        self.optimizer: Any = None
        self.position = Position()
        self.sums = EpochMeter()
        self.history = History()
        self.seconds = 0.0
        self.clock = Clock(self.device)
        self.gradients_finite = True
        self.guard = Guard(self.device, options.non_finite, self.callback)
        self.since = time.monotonic()

    def _set_up_student(self) -> None:
        """Set the memory format, compile, and wrap the student in Fabric; its state dict stays the network's."""
        self.student.to(self.device)
        if self.options.channels_last:
            self.student.to(memory_format=torch.channels_last)
        self.ranks.broadcast(self.student)
        self.ranks.broadcast(self.objective)
        if self.ranks.world > 1 and self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(self.student)  # type: ignore[no-untyped-call]
        self.average = self.options.average(self.student)
        if self.options.compile:
            private_compile_cache()
        # Only the student is wrapped: under mixed precision Fabric would cast the objective's inputs.
        network: Any = torch.compile(self.student) if self.options.compile else self.student
        self.wrapped = self.fabric.setup_module(network)

    def run(self) -> Generator[Request, Fed, History]:
        """Train to the end, from the latest checkpoint if there is one.

        Yields:
            Requests for the next batch, which the caller sends in.

        Returns:
            The results of all epochs.
        """
        self.since = time.monotonic()
        state = self._resumed()
        memory.reset_peak(self.device)
        for number in range(self.position.phase, len(self.stages) + 1):
            yield from self._run_phase(self._phase(number), None if state is None else state["optimizer"])
            state = None
        self._note_costs()
        self._check_weights(self._learned())
        self.guard.check_outputs(self.history)
        if self.average is not None:
            self.student.load_state_dict(self.average.module.state_dict())
        self.student.eval()
        return self.history

    def state(self) -> dict[str, Any]:
        """Return everything that resuming from here needs: tensors and plain values."""
        return {
            "at": dataclasses.asdict(self.position),
            **self._learned(),
            "optimizer": None if self.position == Position(self.position.phase) else self.optimizer.state_dict(),
            "device": self.device.type,
            "precision": self.fabric.strategy.precision.state_dict(),
            "generators": {name: stream.get_state() for name, stream in self.generators.items()},
            **self.sums.state(),
            "seconds": self.seconds,
            "fit": dataclasses.asdict(self.history),
        }

    def _learned(self) -> dict[str, Any]:
        """Return weights, statistics and banks, including the moving average's."""
        return {
            "student": self.student.state_dict(),
            "objective": self.objective.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def _check_weights(self, learned: dict[str, Any]) -> None:
        self.guard.check_weights(learned, self.history.steps, self.ranks)

    def _resumed(self) -> dict[str, Any] | None:
        """Restore the latest checkpoint, except the optimizer, which its phase restores; return the state."""
        if self.checkpoints is None:
            return None
        state, problems = self.checkpoints.load()
        for problem in problems:
            self.callback.note(f"{problem}; resuming from the one before" if state else f"{problem}; starting over")
        if state is not None and state.get("device", self.device.type) != self.device.type:
            # The generators of one kind of device cannot go on on another.
            self.callback.note(f"the checkpoint was written on {state['device']}; on {self.device.type}, starting over")
            state = None
        if state is None:
            return None
        self.position = Position(**state["at"])
        self.student.load_state_dict(state["student"])
        self.objective.load_state_dict(state["objective"])
        for name, stream in self.generators.items():
            stream.set_state(state["generators"][name])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.sums.load(state, self.device)
        self.seconds = state["seconds"]
        self.history = _history(state["fit"])
        self.clock.seconds.update(self.history.phases)
        self.callback.resume(self.history)
        return state

    def _stream(self, name: str) -> torch.Generator:
        return self.generators.setdefault(name, generator(self.seed, name, device=self.device))

    def _phase(self, number: int) -> Phase:
        if number < len(self.stages):
            return self._stage(*self.stages[number])
        self.objective.freeze()
        return Phase(
            name=None, epochs=self.options.epochs, lr=self.options.lr, decay_epochs=self.options.decay_epochs,
            groups=[*_group(self.student.parameters()), *self.objective.parameter_groups()],
            loss=self.objective, trains_student=True,
            views=in_order(self.objective.views), with_teacher=self.objective.terms_need_teacher,
        )  # fmt: skip

    def _stage(self, name: str, stage: Stage, objective: Objective) -> Phase:
        def loss(batch: DistillationBatch, section: Section) -> Losses:
            with section(name):
                value = stage.loss(batch)
            return Losses(value, {name: value}, {name: value})

        parameters = [parameter for module in stage.modules for parameter in module.parameters()]
        resting: list[nn.Module] = []
        if stage.trains_student and stage.up_to_maps:
            resting = parts_behind_the_maps(self.student, self.dataset.in_channels, self.dataset.image_size)
        if stage.trains_student:
            left_out = {parameter for part in resting for parameter in part.parameters(recurse=False)}
            body = [parameter for parameter in self.student.parameters() if parameter not in left_out]
            parameters = [*body, *parameters]
        return Phase(
            name=name, epochs=stage.epochs, lr=self.options.lr if stage.lr is None else stage.lr,
            decay_epochs=decay_epochs(stage.decay_at, stage.epochs),
            groups=_group(parameters), loss=loss, trains_student=stage.trains_student,
            views=objective.views, with_teacher=True, resting=resting,
        )  # fmt: skip

    def _run_phase(self, phase: Phase, optimizer_state: dict[str, Any] | None) -> Generator[Request, Fed, None]:
        self.optimizer = self.fabric.setup_optimizers(self.options.make_optimizer(phase.groups, phase.lr))
        if optimizer_state is not None:
            self.optimizer.load_state_dict(optimizer_state)
        self.student.zero_grad()
        self.objective.zero_grad()
        if self.position == Position(self.position.phase):
            self.clock = Clock(self.device)  # records keep the times of the last phase, the student's own
        batches = self._epoch_batches()
        title = self.name if phase.name is None else f"{self.name}, stage {phase.name}"
        self.callback.start(title, phase.epochs, batches, done=self.position.epoch * batches + self.position.batch)
        while self.position.epoch < phase.epochs:
            yield from self._run_epoch(phase)
        self.position = Position(self.position.phase + 1)
        if phase.name is not None:
            self.save()

    def _run_epoch(self, phase: Phase) -> Generator[Request, Fed, None]:
        epoch = self.position.epoch
        lr = self.options.lr_at(epoch, phase.epochs, phase.lr, phase.decay_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        means = yield from self._train(phase)
        done = EpochResult(
            epoch=epoch + 1, lr=lr, total=means.total, terms=means.terms,
            train_top1=means.top1 if phase.trains_student else None, val=None, test=None,
            seconds=self.seconds, stage=phase.name, diagnostics=means.diagnostics,
        )  # fmt: skip
        if phase.name is None:
            done = self._evaluated(done, last=epoch + 1 == phase.epochs)
            self.history.epochs.append(done)
            self.history.seconds += self.seconds
        else:
            self.history.stages.append(done)
        self.position = Position(self.position.phase, epoch + 1)
        self.sums, self.seconds = EpochMeter(), 0.0
        self.callback.epoch(done)

    def _train(self, phase: Phase) -> Generator[Request, Fed, EpochMeans]:
        """Take the remaining steps of an epoch; return the means over all its steps."""
        self.student.train(phase.trains_student)
        for part in phase.resting:
            part.eval()
        with_teacher = phase.with_teacher and self.teacher is not None
        for number in range(self.position.batch, self._epoch_batches()):
            self._note_time()
            fed = yield Request(
                phase.name, self.position.epoch, number, phase.views, with_teacher, self.objective.needs_maps
            )
            self.since = time.monotonic()
            shared = sum(share * cost.host for _, cost, share in fed.costs)
            self.history.elapsed += shared
            with Span(self.device) as span:
                self._step(phase, fed)
            for name, cost, share in fed.costs:
                self.clock.add(name, cost, share)
            self.seconds += span.host + shared
            self.position.batch += 1
            self.callback.step()
            if self._applies(self.position.batch):  # half a step cannot be resumed
                self._leave_or_save()
        with Span(self.device) as span:
            self.guard.look()
            means = self.sums.means()  # waits for the device, so the time is right
        self.seconds += span.host
        self.clock.read()
        return means

    def _step(self, phase: Phase, fed: Fed) -> None:
        step = self.position.epoch * self._epoch_batches() + self.position.batch
        progress = Progress(step, self.position.epoch, phase.epochs, self.position.batch % self.options.accumulate)
        seed_default(derive(self.seed, "dropout", step, self.ranks.rank), self.device)  # so no state has to be saved
        section = self.clock.section
        buffers = self._buffers() if self.options.non_finite == "skip" else []
        before = [buffer.clone() for buffer in buffers]
        applies = self._applies(self.position.batch + 1)
        with self.fabric.no_backward_sync(self.wrapped, enabled=not applies and self.ranks.world > 1):
            with section("student"), torch.set_grad_enabled(phase.trains_student):
                student = self.ranks.all_gather(
                    self.wrapped(fed.images), len(fed.labels), len(phase.views), self.objective.needs_maps
                )
            seen = DistillationBatch(
                student, fed.teacher, fed.labels, fed.indices, progress=progress, views=phase.views,
                parts=self.ranks.sizes(len(fed.labels)),
                diagnostics={} if phase.name is None and self._explains(self.position.batch) else None,
            )  # fmt: skip
            seed_default(derive(self.seed, "objective", step), self.device)  # the same on all ranks
            losses = phase.loss(seen, section)
            finite = self.guard.check(losses, step, self.optimizer.param_groups[0]["lr"])
            with section("backward"):
                self.fabric.backward(losses.total * self._share(len(fed.labels)))
        if not finite:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)  # undo the statistics of a skipped step
            self._check_weights(self._learned())  # non-finite weights would skip every further step
        self.gradients_finite = self.gradients_finite and finite
        if applies:
            with section("optimizer"):
                if self.gradients_finite:
                    self._apply(phase)
                self.optimizer.zero_grad()
                for part in phase.resting:
                    part.zero_grad()  # no optimizer does it
                self.gradients_finite = True
        if finite:
            self.sums.add(fed.labels, student.logits[: len(fed.labels)].detach(), losses)

    def _buffers(self) -> list[Tensor]:
        return [*self.student.buffers(), *self.objective.buffers()]

    def _apply(self, phase: Phase) -> None:
        """Step the optimizer; if the step was applied, update banks, step count and moving average."""
        self.ranks.average_gradients(self.objective)
        if self.options.clip_norm is not None:
            self.fabric.clip_gradients(
                self.wrapped,
                self.optimizer,
                max_norm=self.options.clip_norm,
                error_if_nonfinite=self.options.precision != 16,  # float16 skips such steps
            )
        scale = self._loss_scale()
        self.optimizer.step()
        if self._loss_scale() < scale:
            return  # float16 overflowed, so the step was skipped
        self.objective.after_step()
        if phase.name is None:
            self.history.steps += 1
            if self.average is not None:
                self.average.update_parameters(self.student)

    def _loss_scale(self) -> float:
        """Return the factor that the loss is multiplied by; 1 except with float16."""
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        return 1.0 if scaler is None else float(scaler.get_scale())

    def _applies(self, batches: int) -> bool:
        """Return whether the optimizer steps after so many batches of the epoch."""
        return batches % self.options.accumulate == 0 or batches == self._epoch_batches()

    def _explains(self, batch: int) -> bool:
        """Return whether the diagnostics of a batch of the epoch are taken."""
        epoch, epochs_apart = self.position.epoch, -(-DIAGNOSED_APART // self._epoch_batches())
        is_due = epoch % epochs_apart == 0 or epoch + 1 == self.options.epochs
        return self.options.diagnostics and is_due and batch % DIAGNOSED_EVERY == 0

    def _share(self, samples: int) -> float:
        """Return a batch's share of the samples of the step that it belongs to."""
        together = self.options.accumulate * self.options.batch_size
        first = self.position.batch // self.options.accumulate * together
        return samples / min(together, len(self.dataset.train_labels) - first)

    def _epoch_batches(self) -> int:
        return self.dataset.num_train_batches(self.options.batch_size)

    def _evaluated(self, done: EpochResult, last: bool) -> EpochResult:
        due = done.epoch % self.options.eval_every == 0 or last
        for network in (self.student, self._student_so_far()):
            self.ranks.broadcast(network)  # batch statistics differ between ranks
        return dataclasses.replace(
            done,
            val=self._evaluate("val", with_teacher=False) if due and "val" in self.dataset.splits else None,
            test=self._evaluate("test", with_teacher=last) if due else None,
        )

    def _evaluate(self, split: str, with_teacher: bool) -> Evaluation:
        return evaluate(
            self._student_so_far(), self.dataset, split,
            teacher=self.teacher if with_teacher else None, batch_size=self.options.eval_batch_size,
            device=self.device, ranks=self.ranks, each_batch=lambda: self.leave(),
        )  # fmt: skip

    def _student_so_far(self) -> Network:
        if self.average is None:
            return self.student
        return cast("Network", self.average.module)

    def _leave_or_save(self) -> None:
        """Stop if the user asked to; otherwise write a checkpoint if one is due."""
        self.leave()
        due = self.checkpoints is not None and self.checkpoints.step()
        if self.ranks.all_reduce_max(int(due and self.ranks.is_main_process)):
            self.save()

    def save(self) -> None:
        """Write a checkpoint, if checkpoints are kept."""
        if self.checkpoints is not None:
            self.guard.look()  # before a non-finite state replaces a good one
            self._note_costs()
            state = self.state()  # on every rank, since sharded banks are gathered for it
            self._check_weights({part: state[part] for part in ("student", "objective", "average")})
            if self.ranks.is_main_process:
                self.checkpoints.save(state)

    def _note_time(self) -> None:
        """Add the time since the loop last received a batch; other loops may run between its steps."""
        now = time.monotonic()
        self.history.elapsed, self.since = self.history.elapsed + now - self.since, now

    def _note_costs(self) -> None:
        self._note_time()
        self.history.peak_memory_mib = max(self.history.peak_memory_mib, memory.peak_mib(self.device))
        self.history.phases = self.clock.read()


def _group(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": [parameter for parameter in parameters if parameter.requires_grad]}]


def _history(state: dict[str, Any]) -> History:
    """Return the history that `dataclasses.asdict` made plain."""
    return History(**{**state, **{key: [_epoch_result(epoch) for epoch in state[key]] for key in ("epochs", "stages")}})


def _epoch_result(state: dict[str, Any]) -> EpochResult:
    evaluations = {split: None if state[split] is None else Evaluation(**state[split]) for split in ("val", "test")}
    return EpochResult(**{**state, **evaluations})
