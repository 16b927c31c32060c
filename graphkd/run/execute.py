"""Execute a run in its folder: lock, reuse, build, record, train, save. One run, or several together."""

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
from graphkd.engine.environment import is_main_process
from graphkd.engine.evaluate import evaluate
from graphkd.engine.feed import Feed
from graphkd.engine.guard import not_finite
from graphkd.engine.loop import TrainingLoop
from graphkd.engine.resume import Checkpoints
from graphkd.engine.threads import torch_threads
from graphkd.engine.together import train_together
from graphkd.engine.trainer import Trainer
from graphkd.errors import UserError, check, counted, one_line
from graphkd.files import folder_if_used, real_folder
from graphkd.identity import identity, one_look, short
from graphkd.logger import LoggedRun, LoggerCallback
from graphkd.model import Network
from graphkd.model.head import head_tensors
from graphkd.registry import place_in_plugin
from graphkd.report import record as records
from graphkd.report.metrics import METRICS as METRIC_NAMES
from graphkd.report.metrics import value_of
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
from graphkd.run.rehearsal import rehearse, waits_for_teacher
from graphkd.run.reuse import changed_plugins, why_not_reused
from graphkd.run.spec import Built, RunSpec, StudentSpec, TeacherSpec

BETTER_THAN_GUESSING = 1.2
"""A teacher whose accuracy is below this multiple of chance causes a warning."""
MEMORY_SHARE = 0.25
"""Share of the free memory that the runs of a group may use; other workers start at the same time."""


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
    """Execute a run in its folder, after its teacher's run if the teacher is missing.

    A finished run of the same identity and seed is not run again unless `force` is set; then the new one is written
    beside it and replaces it when done.

    Args:
        spec: The run (from `graphkd.run.parse`).
        callback: Follows the training.
        dataset: The data, if already built.
        worker: The module that executes a run in one of several processes (`python -m WORKER CONFIG`); needed if the
            trainer has several devices and starts their processes itself.

    Raises:
        UserError: The folder holds something else, or parts of the run do not fit together.
        NotFiniteError: A loss, weights or outputs became NaN or infinite.
    """
    (outcome,) = run_together([spec], [callback or Callback()], dataset=dataset, worker=worker)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@one_look()
def run_together(
    specs: Sequence[RunSpec], callbacks: Sequence[Callback], *,
    dataset: Dataset | None = None, worker: str | None = None, wait: bool = True,
    ended: Callable[[int, RunResult | Exception], None] = lambda at, outcome: None,
) -> list[RunResult | Exception]:  # fmt: skip
    """Execute several runs on one stream of batches and teacher outputs; each ends with the same bytes as alone.

    A run that fails does not stop the others.

    Args:
        specs: Runs of the same data, seed, batch size and teacher (`graphkd.run.group.stream`).
        callbacks: One for each run.
        dataset: As in `run`.
        worker: As in `run`; with several devices, one run at a time.
        wait: Whether to wait for folders that other processes are working in.
        ended: Called when a run has ended, with its position in `specs`.

    Returns:
        The result of each run, or its error (`BusyError` if another process has it and `wait` is false).

    Raises:
        UserError: The data are not available, or two runs share a folder.
        KeyboardInterrupt: The runs were interrupted; each has written a checkpoint.
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
        raise KeyboardInterrupt  # the handler of the signal did not raise
    return outcomes


class _Execution:
    """A run in progress: its spec, what is built of it, and its outcome."""

    def __init__(self, spec: RunSpec, callback: Callback, ended: Callable[[RunResult | Exception], None]) -> None:
        self.spec, self.callback, self.ended = spec, callback, ended
        self.folder = self.place = Path()
        """The run's folder, and the folder that it is written in."""
        self.problem: str | None = None
        self.replaced: Record | None = None
        """The record of the finished run that this one replaces."""
        self.built: Built | None = None
        self.record: Record | None = None
        """The record, as long as a failure must be written to it."""
        self.loop: TrainingLoop | None = None
        self.logger: LoggerCallback | None = None
        self.outcome: RunResult | Exception | None = None
        self.held = ExitStack()
        """Holds the folder's lock while the run works in it."""

    @property
    def teacher(self) -> Network | None:
        """The network of its teacher."""
        return None if self.built is None else self.built.teacher

    def attempt(self, step: Callable[[], None]) -> None:
        """Take a step unless the run has ended; an error becomes the run's outcome."""
        if self.outcome is None:
            try:
                step()
            except Exception as error:
                if self.outcome is not None:
                    raise
                self.fail(error)

    def fail(self, error: Exception) -> None:
        """End with an error, and write it to the record if there is one."""
        if self.record is not None and is_main_process():
            write_failure(self.record, error, self.place)
        self._end(error)

    def look(self) -> None:
        """Reuse the finished run if there is one; otherwise check that machine and folder are suitable."""
        no_training = self.spec.kind == "teacher" and self.spec.checkpoint is not None
        check(not no_training, "teacher.checkpoint is given, so there is no teacher to train")
        self.folder = real_folder(self.spec.folder)
        if not self._reuse():
            processes.check_world_size(self.spec.trainer, self.spec.trainer_node)
            self.spec.trainer.check_machine()

    def run_in_processes(self, worker: str, wait: bool) -> None:
        """Execute the run in one process per device; the main process shows the progress."""
        spec, teacher = self.spec, self.spec.teacher
        if not wait and busy(self.folder):
            raise BusyError(f"another process is working in {self.folder}")
        if waits_for_teacher(spec):
            rehearse(spec, spec.data.build())
        if teacher is not None and not teacher.checkpoint and teacher.trainer.processes != spec.trainer.processes:
            run(teacher, self.callback, worker=worker)
        with tempfile.TemporaryDirectory(prefix="graphkd-") as place:
            resolved = Path(place) / CONFIG
            write_spec(spec, resolved)
            processes.start(worker, resolved, spec.trainer.devices, ["--quiet"] if self.callback.quiet else [])
        record = finished(self.folder, spec.identity, spec.seed)
        assert record is not None, "the processes succeeded"
        self._end(RunResult(record, self.folder, reused=False))

    def build(self, dataset: Dataset, teacher: Network | None) -> None:
        """Build everything before writing anything, so that parts that do not fit leave no trace."""
        if self.spec.logger is not None:
            self.spec.logger.build()
        built = self.spec.build(dataset, teacher)
        trainer = self.spec.trainer.notes()
        for note in [*trainer, *self.spec.notes(dataset, built), *filter(None, [self.problem, self._why_not_reused()])]:
            self.callback.note(note)
        if isinstance(self.spec, StudentSpec) and self.spec.checkpoint is not None:
            _start(built.network, self.spec, self.spec.checkpoint, dataset, self.callback)
            self.callback.note(f"student: {self.spec.model.name} starts from {self.spec.checkpoint}")
        self.built = built
        self.held.enter_context(folder_if_used(self.folder.parent))  # if impossible, fails before a teacher is trained

    def rehearse(self, dataset: Dataset) -> None:
        """Try the first steps out if a teacher has to be trained before them."""
        if not processes.joined() and waits_for_teacher(self.spec):
            rehearse(self.spec, dataset)

    def memory(self) -> int:
        """Estimate the memory that the run holds between steps, in bytes: weights, gradients, optimizer, banks."""
        if self.built is None:
            return 0
        parts = (self.built.network, self.built.objective)
        trained = sum(tensor.nbytes for part in parts for tensor in part.parameters())
        state = [value for part in parts for value in part.state_dict().values() if isinstance(value, Tensor)]
        return 4 * trained + sum(tensor.nbytes for tensor in state)

    def open(self, group_size: int, teacher: Teacher | None, dataset: Dataset, wait: bool) -> None:
        """Lock the folder and write the first record, unless another process has finished the run by now."""
        self.held.enter_context(locked(self.folder, self.callback, wait))
        if self._reuse():
            return
        self.replaced = processes.broadcast_object(lambda: finished(self.folder, self.spec.identity, self.spec.seed))
        self.place = staging_folder(self.folder, keep=self.replaced is not None)
        processes.broadcast_object(self._remove_stale_checkpoints)
        assert self.built is not None
        views = self.built.objective.views
        self.record = dataclasses.replace(new_record(self.spec, views, group_size), teacher=teacher)
        if is_main_process():
            records.write(self.record, self.place / RECORD)  # first: it marks the folder as a run's
            write_config(absolute_paths(self.spec.document), self.place / CONFIG)
            if self.spec.predicts:
                write_info(dataset.info, self.place)

    def start(self, dataset: Dataset) -> None:
        """Set up the training."""
        spec, built = self.spec, self.built
        assert built is not None
        fabric = spec.trainer.fabric()
        fabric.launch()
        callback = self.callback if is_main_process() else Callback()
        if spec.predicts and is_main_process():
            callback = MetricsLogger(self.place / METRICS, callback)
            callback = self._with_logger(callback)
        self.loop = TrainingLoop(
            spec.trainer, fabric, built.network, built.objective, spec.training_data(dataset, built),
            teacher=built.teacher, seed=spec.seed, callback=callback,
            name=f"{spec.kind} {spec.variant} seed {spec.seed}",
            checkpoints=Checkpoints(self.place, spec.trainer.checkpoint_every),
        )  # fmt: skip

    def _with_logger(self, callback: Callback) -> Callback:
        """Return the callback with the run's logger before it; the logger is closed with the folder."""
        if self.spec.logger is None:
            return callback
        place = short(identity({"folder": str(self.folder.resolve())}))
        again = "" if self.replaced is None else f"-{short(identity(json.loads(self.replaced.to_json())))}"
        logged = LoggedRun(
            str(self.spec.config["study"]), f"{self.spec.variant} seed {self.spec.seed}",
            f"{short(self.spec.identity)}-{self.spec.seed}-{place}{again}", self.place, self.spec.document,
        )  # fmt: skip
        self.logger = LoggerCallback(self.spec.logger.build(), logged, callback)
        self.held.callback(self._close_logger)
        return self.logger

    def _close_logger(self, done: Record | None = None) -> None:
        """End the log, with the figures of a finished run; one that failed or was interrupted has none."""
        if self.logger is not None:
            self.logger.close({} if done is None else _figures(done))
            self.logger = None

    def finish(self, history: History) -> None:
        """Write weights and record; the folder replaces an earlier one of the same run."""
        assert self.record is not None
        assert self.built is not None
        done = finished_record(self.record, history)
        if is_main_process():
            save_weights(self.built.network, self.place / WEIGHTS[self.spec.kind])
            records.write(done, self.place / RECORD)
            self.record = None  # the run is done, whatever else fails
            self._close_logger(done)
            Checkpoints(self.place, self.spec.trainer.checkpoint_every).remove()
            replace_folder(self.folder, self.place)
        processes.wait()
        self._end(RunResult(done, self.folder, reused=False))

    def _end(self, outcome: RunResult | Exception) -> None:
        """Set the outcome, release folder and networks, and call `ended`."""
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
        """Return the record of the finished run, unless it must run again; otherwise check the folder."""
        found = finished(self.folder, self.spec.identity, self.spec.seed)
        if found is not None and not self.spec.config["force"]:
            self.problem = self.spec.problem(self.folder)
            if self.problem is None:
                return found
        check_own(self.folder)
        return None

    def _remove_stale_checkpoints(self) -> None:
        """Remove the checkpoints of an unfinished run that was another one, or whose plug-ins have changed."""
        if not (self.place / RECORD).exists():
            return
        left = records.read(self.place / RECORD)
        changed = changed_plugins(left, self.spec.plugins)
        if changed:
            self.callback.note(f"plug-in {', '.join(changed)} has changed since the run was interrupted; starting over")
        if changed or (left.identity, left.seed) != (self.spec.identity, self.spec.seed):
            Checkpoints(self.place, self.spec.trainer.checkpoint_every).remove()

    def _why_not_reused(self) -> str | None:
        """Return why an earlier run of the same config is not reused, if there is one."""
        own, parse = self.spec.identity, PARSERS.get(self.spec.kind)
        if parse is None or self.folder.parent.name != short(own):
            return None
        return why_not_reused(self.folder, own, self.spec.seed, lambda config: parse(config).identity)


def _train(runs: Sequence[_Execution], dataset: Dataset, worker: str | None, wait: bool) -> None:
    """Train runs after their teacher: as many together as memory allows, then the rest."""
    for each in runs:
        each.attempt(partial(each.rehearse, dataset))
    left = _left(runs)
    teacher: Network | None = None
    known: Teacher | Exception | None = None
    while left:
        budget = MEMORY_SHARE * memory.available_bytes(runs[0].spec.trainer.check_machine())
        group: list[_Execution] = []
        while left and (not group or sum(each.memory() for each in group) < budget):
            each = left.pop(0)
            each.attempt(partial(each.build, dataset, teacher))
            teacher = each.teacher if teacher is None else teacher
            group.append(each)
        learning = next((each for each in group if each.teacher is not None), None)
        if known is None and learning is not None:
            known = _known_teacher(learning, dataset, worker)
        for each in sorted(_left(group), key=lambda each: each.folder):  # all groups lock in this order
            its_teacher = None if each.teacher is None else known
            if isinstance(its_teacher, Exception):
                each.fail(its_teacher)
            else:
                each.attempt(partial(each.open, len(group), its_teacher, dataset, wait))
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
    """Return the teacher for the records, with its weights loaded, or the error."""
    spec, network = learning.spec.teacher, learning.teacher
    assert spec is not None
    assert network is not None
    own = dataset if spec.data == learning.spec.data else None
    try:
        with torch_threads(learning.spec.trainer.threads):
            teacher = _filled_teacher(spec, network, learning.spec.trainer, learning.callback, dataset, own, worker)
    except Exception as error:
        return error
    chance = 100 / dataset.num_classes
    if teacher.accuracy is not None and teacher.accuracy < BETTER_THAN_GUESSING * chance:
        learning.callback.note(
            f"teacher: right on {teacher.accuracy:.2f} % of the test images, where guessing among "
            f"{dataset.num_classes} classes gives {chance:.2f} %: its students will learn little from it"
        )
    return teacher


def _filled_teacher(
    spec: TeacherSpec, network: Network, trainer: Trainer, callback: Callback, dataset: Dataset, own: Dataset | None,
    worker: str | None,
) -> Teacher:  # fmt: skip
    """Load a teacher's weights from its file or run; train it first if necessary.

    Args:
        spec: The teacher.
        network: Its network.
        trainer: The student's trainer, on whose device weights from a file are tested.
        callback: Gets a note on where the weights come from.
        dataset: The student's data.
        own: The teacher's data, if already built.
        worker: As in `run`.
    """
    if spec.checkpoint is not None:
        fix = "a teacher needs the data's classes: train one by `graphkd run student=... student.checkpoint=FILE"
        _fill(network, spec.checkpoint, callback, dataset, f"{fix} student.drop_head=true objective=ce`")
        device = trainer.fabric().device
        figures = evaluate(network.to(device), dataset, batch_size=trainer.eval_batch_size, device=device)
        check(
            math.isfinite(figures.nll),
            f"teacher.checkpoint: with the weights in {spec.checkpoint} the network's outputs are not finite",
        )
        callback.note(f"teacher: {spec.model.name} from {spec.checkpoint} ({figures.top1:.2f} % on test)")
        return Teacher(spec.identity, figures.top1)
    if not (spec.folder / RECORD).exists():
        epochs = counted(spec.trainer.epochs, "epoch")
        callback.note(f"teacher: {spec.model.name} is not in {spec.folder} yet; training it first ({epochs})")
    result = run(spec, callback, dataset=own, worker=worker)
    again = "train it again: graphkd teacher with the same overrides and force=true"
    try:
        load_weights(network, result.folder / WEIGHTS["teacher"])
    except UserError as error:
        raise UserError(f"{error}; {again}") from error
    metrics = result.record.metrics
    check(
        metrics.test_nll_last is not None and not not_finite(network.state_dict()),
        f"the teacher in {spec.folder} has weights or outputs that are not finite; {again}",
    )
    if result.reused:
        callback.note(f"teacher: {spec.model.name} from {spec.folder} ({metrics.test_top1_last:.2f} % on test)")
        for module in result.changed:
            callback.note(f"teacher: plug-in {module} has changed since (graphkd teacher force=true trains it again)")
    return Teacher(spec.identity, metrics.test_top1_last)


def _start(network: Network, spec: StudentSpec, path: Path, dataset: Dataset, callback: Callback) -> None:
    """Load the weights that a student starts from, with their head or without."""
    if not spec.drop_head:
        _fill(network, path, callback, dataset, "student.drop_head=true starts with a new head")
        return
    for note in load_weights(network, path, head_tensors(network, dataset.in_channels, dataset.image_size)):
        callback.note(note)


def _figures(record: Record) -> dict[str, float]:
    """Return the final figures of a run by name."""
    figures = {name: value_of(record, name) for name in METRIC_NAMES}
    return {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}


def _fill(network: Network, path: Path, callback: Callback, dataset: Dataset, without_head: str) -> None:
    """Load weights and pass notes on their file to the callback.

    Args:
        network: The network.
        path: The file.
        callback: Gets the notes.
        dataset: The data.
        without_head: What the message advises where the file fits but for its head.
    """
    try:
        notes = load_weights(network, path)
    except UserError as error:
        hint = f"; {without_head}" if _fits_without_head(network, path, dataset) else ""
        raise UserError(f"{error}{hint}") from error
    for note in notes:
        callback.note(note)


def _fits_without_head(network: Network, path: Path, dataset: Dataset) -> bool:
    try:
        load_weights(network, path, head_tensors(network, dataset.in_channels, dataset.image_size))
    except UserError:
        return False
    return True


def check_parts(runs: Iterable[tuple[str, RunSpec]], rehearses: bool = True) -> None:
    """Build the data and parts of every unfinished run once, and rehearse those that wait for a teacher.

    Args:
        runs: Pairs of a name for messages and a run.
        rehearses: Whether to rehearse runs; they may be for another machine than this one.

    Raises:
        UserError: Something does not fit.
        RuntimeError: The first step of a run fails. Other errors in the data are raised too.
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
            if spec.logger is not None:
                spec.logger.build()
            if rehearses and waits_for_teacher(spec):
                _rehearse(name, spec, datasets[data])
        except UserError as error:
            raise UserError(f"{name}: {error}") from error


def _rehearse(name: str, spec: RunSpec, dataset: Dataset) -> None:
    try:
        rehearse(spec, dataset)
    except UserError:
        raise
    except Exception as error:
        raise RuntimeError(f"{name}: {one_line(error)}{place_in_plugin(error)}") from error
