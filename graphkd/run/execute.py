"""A run in its folder: lock, reuse, build, record, train, weights, record; for one run, or for several together."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from graphkd.data import Dataset
from graphkd.engine import memory
from graphkd.engine.callback import Callback, History
from graphkd.engine.checkpoint import load_weights, save_weights
from graphkd.engine.evaluate import evaluate
from graphkd.engine.feed import Feed
from graphkd.engine.guard import not_finite
from graphkd.engine.loop import TrainingLoop
from graphkd.engine.resume import Checkpoints
from graphkd.engine.threads import torch_threads
from graphkd.engine.together import train_together
from graphkd.errors import UserError, check
from graphkd.files import folder_if_used, real_folder
from graphkd.identity import short
from graphkd.model import Network
from graphkd.report import record as records
from graphkd.report.record import Record, Teacher
from graphkd.run import processes
from graphkd.run.finished import write_info
from graphkd.run.folder import (
    CONFIG,
    METRICS,
    RECORD,
    WEIGHTS,
    BusyError,
    MetricsLogger,
    busy,
    check_own,
    finished,
    is_done,
    locked,
    replace_folder,
    staging_folder,
    write_config,
    write_failure,
)
from graphkd.run.parse import PARSERS, absolute_paths, write_spec
from graphkd.run.records import finished_record, new_record
from graphkd.run.reuse import changed_plugins, why_not_reused
from graphkd.run.spec import Built, RunSpec, StudentSpec, TeacherSpec

MEMORY_SHARE = 0.25
"""How much of the memory that is free the runs of a group may take; other workers begin at the same time."""


@dataclass(frozen=True)
class RunResult:
    """Result of a run: its record, its folder, and whether a finished run was reused."""

    record: Record
    folder: Path
    reused: bool
    changed: tuple[str, ...] = ()
    """Plug-in modules whose source has changed since a reused run was made."""


def run(
    spec: RunSpec, callback: Callback | None = None, *, dataset: Dataset | None = None, worker: str | None = None
) -> RunResult:
    """Do a run in its folder, after its teacher's where none of that description is there.

    A finished run of the same identity and seed is not run again unless `force` is set; then the new one is written
    beside it and takes its place when it is done.

    Args:
        spec: What to run (`graphkd.run.parse`).
        callback: Follows the training.
        dataset: The data, where they are built already.
        worker: The module that does a run in one of several processes (`python -m WORKER CONFIG`); needed where its
            trainer has several devices and starts them itself.

    Raises:
        UserError: The folder holds something else, or parts of the run do not fit together.
        NotFiniteError: A loss, weights or outputs became NaN or infinite.
    """
    (outcome,) = run_together([spec], [callback or Callback()], dataset=dataset, worker=worker)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def run_together(
    specs: Sequence[RunSpec], callbacks: Sequence[Callback], *,
    dataset: Dataset | None = None, worker: str | None = None, wait: bool = True,
    ended: Callable[[int, RunResult | Exception], None] = lambda at, outcome: None,
) -> list[RunResult | Exception]:  # fmt: skip
    """Do several runs on one stream of batches and teacher outputs; each comes to the same bytes as alone.

    A run that fails stops no other.

    Args:
        specs: Runs of the same data, seed, batch size and teacher (`graphkd.run.group.stream`).
        callbacks: One for each.
        dataset: As in `run`.
        worker: As in `run`; several devices take one run at a time.
        wait: Whether to wait for folders that other processes work in.
        ended: Called when a run has come to its end, with its position in `specs`.

    Returns:
        The result of each, or what it failed with (`BusyError` where nobody waits).

    Raises:
        UserError: The data cannot be had, or two of them share a folder.
        KeyboardInterrupt: They were interrupted; each has left a checkpoint.
    """
    trainer = specs[0].trainer
    processes.join(trainer, specs[0].trainer_node)
    runs = [
        _Execution(spec, callback, partial(ended, at))
        for at, (spec, callback) in enumerate(zip(specs, callbacks, strict=True))
    ]
    try:
        for each in runs:
            each.attempt(each.look)
        left = _left(runs)
        check(len({each.folder for each in left}) == len(left), "two runs that train together share a folder")
        if left and processes.needed(trainer, worker):
            for each in left:
                each.attempt(partial(each.run_in_processes, str(worker), wait))
        elif left:
            _train(left, dataset or specs[0].data.build(), worker, wait)
    finally:
        for each in runs:
            each.held.close()
    outcomes = [each.outcome for each in runs if each.outcome is not None]
    if len(outcomes) < len(runs):
        raise KeyboardInterrupt  # whoever handled the signal did not raise
    return outcomes


class _Execution:
    """One run on its way: what it is, what is built of it, and what it comes to."""

    def __init__(self, spec: RunSpec, callback: Callback, ended: Callable[[RunResult | Exception], None]) -> None:
        self.spec, self.callback, self.ended = spec, callback, ended
        self.folder = self.place = Path()
        """The run's folder, and where it is written."""
        self.problem: str | None = None
        self.built: Built | None = None
        self.record: Record | None = None
        """The record, while a failure is to be written into it."""
        self.loop: TrainingLoop | None = None
        self.outcome: RunResult | Exception | None = None
        self.held = ExitStack()
        """The folder's lock, while it is worked in."""

    @property
    def teacher(self) -> Network | None:
        """The network of its teacher."""
        return None if self.built is None else self.built.teacher

    def attempt(self, step: Callable[[], None]) -> None:
        """Take a step, unless the run has come to its end; what the step raises is the run's outcome."""
        if self.outcome is None:
            try:
                step()
            except Exception as error:
                if self.outcome is not None:
                    raise
                self.fail(error)

    def fail(self, error: Exception) -> None:
        """End with an error, which the record tells if it was begun."""
        if self.record is not None and processes.is_main_process():
            write_failure(self.record, error, self.place)
        self._end(error)

    def look(self) -> None:
        """Reuse the finished run if there is one; else check whether this machine and the folder can take it."""
        no_training = self.spec.kind == "teacher" and self.spec.checkpoint is not None
        check(not no_training, "teacher.checkpoint is given, so there is no teacher to train")
        self.folder = real_folder(self.spec.folder)
        if not self._reuse():
            processes.check_world_size(self.spec.trainer, self.spec.trainer_node)
            self.spec.trainer.check_machine()

    def run_in_processes(self, worker: str, wait: bool) -> None:
        """Have a process for each device do it; the main process shows how it goes."""
        spec, teacher = self.spec, self.spec.teacher
        if not wait and busy(self.folder):
            raise BusyError(f"another process is at work in {self.folder}")
        if teacher is not None and not teacher.checkpoint and teacher.trainer.processes != spec.trainer.processes:
            spec.build(spec.data.build())  # what does not fit together is refused before
            run(teacher, self.callback, worker=worker)
        with tempfile.TemporaryDirectory(prefix="graphkd-") as place:
            resolved = Path(place) / CONFIG
            write_spec(spec, resolved)
            processes.start(worker, resolved, spec.trainer.devices, ["--quiet"] if self.callback.quiet else [])
        record = finished(self.folder, spec.identity, spec.seed)
        assert record is not None, "the processes ended well"
        self._end(RunResult(record, self.folder, reused=False))

    def build(self, dataset: Dataset, teacher: Network | None) -> None:
        """Build everything before anything is written, so that what does not fit together leaves no trace."""
        built = self.spec.build(dataset, teacher)
        for note in [*self.spec.notes(dataset, built), *filter(None, [self.problem, self._why_not_reused()])]:
            self.callback.note(note)
        if isinstance(self.spec, StudentSpec) and self.spec.checkpoint is not None:
            _fill(built.network, self.spec.checkpoint, self.callback)
            self.callback.note(f"student: {self.spec.model.name} starts from {self.spec.checkpoint}")
        self.built = built
        self.held.enter_context(folder_if_used(self.folder.parent))  # where it cannot be made, no teacher is trained

    def memory(self) -> int:
        """Return about how many bytes it takes between its steps: weights, gradients, optimizer and banks."""
        if self.built is None:
            return 0
        parts = (self.built.network, self.built.objective)
        trained = sum(tensor.nbytes for part in parts for tensor in part.parameters())
        state = [value for part in parts for value in part.state_dict().values() if isinstance(value, Tensor)]
        return 4 * trained + sum(tensor.nbytes for tensor in state)

    def open(self, group_size: int, teacher: Teacher | None, dataset: Dataset, wait: bool) -> None:
        """Lock the folder and begin the record, unless somebody else has done the run in the meantime."""
        self.held.enter_context(locked(self.folder, self.callback, wait))
        if self._reuse():
            return
        there = processes.broadcast_object(lambda: finished(self.folder, self.spec.identity, self.spec.seed))
        self.place = staging_folder(self.folder, keep=there is not None)
        self.record = dataclasses.replace(new_record(self.spec, group_size), teacher=teacher)
        if processes.is_main_process():
            records.write(self.record, self.place / RECORD)  # first, for it makes the folder a run's
            write_config(absolute_paths(self.spec.document), self.place / CONFIG)
            if self.spec.predicts:
                write_info(dataset.info, self.place)

    def start(self, dataset: Dataset) -> None:
        """Set the training up."""
        spec, built = self.spec, self.built
        assert built is not None
        fabric = spec.trainer.fabric()
        fabric.launch()
        callback = self.callback if processes.is_main_process() else Callback()
        if spec.predicts and processes.is_main_process():
            callback = MetricsLogger(self.place / METRICS, callback)
        self.loop = TrainingLoop(
            spec.trainer, fabric, built.network, built.objective, spec.training_data(dataset, built),
            teacher=built.teacher, seed=spec.seed, callback=callback,
            name=f"{spec.kind} {spec.variant} seed {spec.seed}",
            checkpoints=Checkpoints(self.place, spec.trainer.checkpoint_every),
        )  # fmt: skip

    def finish(self, history: History) -> None:
        """Leave weights and record; the folder takes the place of an earlier one of the same run."""
        assert self.record is not None
        assert self.built is not None
        done = finished_record(self.record, history)
        if processes.is_main_process():
            save_weights(self.built.network, self.place / WEIGHTS[self.spec.kind])
            records.write(done, self.place / RECORD)
            self.record = None  # it is done, whatever else fails
            Checkpoints(self.place, self.spec.trainer.checkpoint_every).remove()
            replace_folder(self.folder, self.place)
        processes.wait()
        self._end(RunResult(done, self.folder, reused=False))

    def _end(self, outcome: RunResult | Exception) -> None:
        """Note what it came to, let go of folder and networks, and tell whoever waits for it."""
        self.outcome = outcome
        self.built = self.loop = None
        self.held.close()
        self.ended(outcome)

    def _reuse(self) -> bool:
        found = processes.broadcast_object(self._reusable)
        if found is not None:
            changed = changed_plugins(found, self.spec.plugins)
            self._end(RunResult(found, self.folder, reused=True, changed=changed))
        return found is not None

    def _reusable(self) -> Record | None:
        """Return the record of the finished run, unless it is to run again; else check the folder."""
        found = finished(self.folder, self.spec.identity, self.spec.seed)
        if found is not None and not self.spec.config["force"]:
            self.problem = self.spec.problem(self.folder)
            if self.problem is None:
                return found
        check_own(self.folder)
        return None

    def _why_not_reused(self) -> str | None:
        """Say why a run of the same config is not used again, if there is one where the new one is kept."""
        identity, parse = self.spec.identity, PARSERS.get(self.spec.kind)
        if parse is None or self.folder.parent.name != short(identity):
            return None
        return why_not_reused(self.folder, identity, self.spec.seed, lambda config: parse(config).identity)


def _train(runs: Sequence[_Execution], dataset: Dataset, worker: str | None, wait: bool) -> None:
    """Train runs after their teacher: as many of them together as memory allows, then the others."""
    left = list(runs)
    teacher: Network | None = None
    known: Teacher | Exception | None = None
    while left:
        budget = MEMORY_SHARE * memory.available_bytes(runs[0].spec.trainer.check_machine())
        group: list[_Execution] = []
        while left and (not group or sum(each.memory() for each in group) < budget):
            each = left.pop(0)
            each.attempt(partial(each.build, dataset, teacher))
            teacher = teacher or each.teacher
            group.append(each)
        learning = next((each for each in group if each.teacher is not None), None)
        if known is None and learning is not None:
            known = _known_teacher(learning, dataset, worker)
        for each in sorted(_left(group), key=lambda each: each.folder):  # in the order that all groups lock in
            if each.teacher is None:
                each.attempt(partial(each.open, len(group), None, dataset, wait))
            elif isinstance(known, Exception):
                each.fail(known)
            else:
                each.attempt(partial(each.open, len(group), known, dataset, wait))
            each.attempt(partial(each.start, dataset))
        _train_started(_left(group), teacher)


def _train_started(runs: Sequence[_Execution], teacher: Network | None) -> None:
    loops = {each.loop: each for each in runs if each.loop is not None}

    def ended(loop: TrainingLoop, outcome: History | Exception) -> None:
        if isinstance(outcome, Exception):
            loops[loop].fail(outcome)
        else:
            loops[loop].attempt(partial(loops[loop].finish, outcome))

    if loops:
        first = next(iter(loops))
        try:
            feed = Feed(first.options, first.fabric, first.dataset, teacher, first.seed)
        except Exception as error:
            for each in runs:
                each.fail(error)
        else:
            train_together(list(loops), feed, ended)


def _left(runs: Iterable[_Execution]) -> list[_Execution]:
    return [each for each in runs if each.outcome is None]


def _known_teacher(learning: _Execution, dataset: Dataset, worker: str | None) -> Teacher | Exception:
    """Return the teacher for the records, with its network filled, or why there is none."""
    spec, network = learning.spec.teacher, learning.teacher
    assert spec is not None
    assert network is not None
    own = dataset if spec.data == learning.spec.data else None
    try:
        with torch_threads(learning.spec.trainer.threads):
            return _filled_teacher(spec, network, learning.callback, dataset, own, worker)
    except Exception as error:
        return error


def _filled_teacher(
    spec: TeacherSpec, network: Network, callback: Callback, dataset: Dataset, own: Dataset | None, worker: str | None
) -> Teacher:
    """Fill a teacher's network from its file or run, and train it first if need be.

    Args:
        spec: The teacher.
        network: Its network.
        callback: Is told where it comes from.
        dataset: The student's data.
        own: The teacher's data, where they are built.
        worker: As in `run`.
    """
    if spec.checkpoint is not None:
        _fill(network, spec.checkpoint, callback)
        figures = evaluate(network, dataset, "test")
        check(
            math.isfinite(figures.nll),
            f"teacher.checkpoint: with the weights in {spec.checkpoint} the network's outputs are not finite",
        )
        callback.note(f"teacher: {spec.model.name} from {spec.checkpoint} ({figures.top1:.2f} % on test)")
        return Teacher(spec.identity, figures.top1)
    if not (spec.folder / RECORD).exists():
        epochs = spec.trainer.epochs
        callback.note(f"teacher: {spec.model.name} is not in {spec.folder} yet, training it first ({epochs} epochs)")
    result = run(spec, callback, dataset=own, worker=worker)
    load_weights(network, result.folder / WEIGHTS["teacher"])
    metrics = result.record.metrics
    check(
        metrics.test_nll_last is not None and not not_finite(network.state_dict()),
        f"the teacher in {spec.folder} has weights or outputs that are not finite; train it again: graphkd teacher "
        "with the same overrides and force=true",
    )
    if result.reused:
        callback.note(f"teacher: {spec.model.name} from {spec.folder} ({metrics.test_top1_last:.2f} % on test)")
        for module in result.changed:
            callback.note(f"teacher: plug-in {module} has changed since (graphkd teacher force=true trains it again)")
    return Teacher(spec.identity, metrics.test_top1_last)


def _fill(network: Network, path: Path, callback: Callback) -> None:
    """Load weights and pass on what there is to say of their file."""
    for note in load_weights(network, path):
        callback.note(note)


def check_parts(runs: Iterable[tuple[str, RunSpec]]) -> None:
    """Build the data and parts of every run that is still to be done once, before a teacher is trained for any.

    Args:
        runs: What messages call each run, and the run.

    Raises:
        UserError: Something does not fit; whatever else goes wrong with the data ends all runs too.
    """
    datasets: dict[str, Dataset] = {}
    left = {
        spec.identity: (name, spec)
        for name, spec in runs
        if spec.config["force"] or not is_done(spec.folder, spec.identity, spec.seed)
    }
    for name, spec in left.values():
        data = json.dumps(spec.data.document, sort_keys=True)
        try:
            if data not in datasets:
                datasets[data] = spec.data.build()
            spec.build(datasets[data])
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
