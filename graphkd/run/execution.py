"""A run in progress: every step from a look at its folder to its result."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from graphkd.data import Dataset
from graphkd.engine.callback import Callback, History
from graphkd.engine.checkpoint import Checkpoints
from graphkd.engine.environment import is_main_process
from graphkd.engine.loop import TrainingLoop
from graphkd.engine.weights import save_weights
from graphkd.errors import check
from graphkd.files import folder_if_used, real_folder
from graphkd.identity import identity, short
from graphkd.logger import LoggedRun, LoggerCallback
from graphkd.model import Network
from graphkd.report.metrics import METRICS as METRIC_NAMES
from graphkd.report.metrics import value_of
from graphkd.report.record import Record, Teacher
from graphkd.report.record import read as read_record
from graphkd.report.record import write as write_record
from graphkd.run import processes
from graphkd.run.finished import write_info
from graphkd.run.folder import (
    CONFIG,
    METRICS,
    RECORD,
    WEIGHTS,
    MetricsLogger,
    check_own,
    finished,
    locked,
    replace_folder,
    staging_folder,
    write_config,
    write_failure,
)
from graphkd.run.parse import PARSERS, absolute_paths
from graphkd.run.records import finished_record, new_record
from graphkd.run.rehearsal import rehearse, waits_for_teacher
from graphkd.run.result import RunResult
from graphkd.run.reuse import changed_plugins, why_not_reused
from graphkd.run.spec import Built, RunSpec, StudentSpec
from graphkd.run.weights import load_start


class Execution:
    """A run in progress: its spec, what is built of it, and its outcome.

    Every step raises `UserError` where something does not fit; `attempt` makes an error the run's outcome.
    """

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
        self.end(error)

    def look(self) -> None:
        """Reuse the finished run if there is one; otherwise check that machine and folder are suitable."""
        no_training = self.spec.kind == "teacher" and self.spec.checkpoint is not None
        check(not no_training, "teacher.checkpoint is given, so there is no teacher to train")
        self.folder = real_folder(self.spec.folder)
        if not self._reuse():
            processes.check_world_size(self.spec.trainer, self.spec.trainer_node)
            self.spec.trainer.check_machine()

    def build(self, dataset: Dataset, teacher: Network | None) -> None:
        """Build everything before writing anything, so that parts that do not fit leave no trace."""
        if self.spec.logger is not None:
            self.spec.logger.build()
        built = self.spec.build(dataset, teacher)
        trainer = self.spec.trainer.notes()
        for note in [*trainer, *self.spec.notes(dataset, built), *filter(None, [self.problem, self._why_not_reused()])]:
            self.callback.note(note)
        if isinstance(self.spec, StudentSpec) and self.spec.checkpoint is not None:
            load_start(built.network, self.spec, self.spec.checkpoint, dataset, self.callback)
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
            write_record(self.record, self.place / RECORD)  # first: it marks the folder as a run's
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
            write_record(done, self.place / RECORD)
            self.record = None  # the run is done, whatever else fails
            self._close_logger(done)
            Checkpoints(self.place, self.spec.trainer.checkpoint_every).remove()
            replace_folder(self.folder, self.place)
        processes.wait()
        self.end(RunResult(done, self.folder, reused=False))

    def end(self, outcome: RunResult | Exception) -> None:
        """Set the outcome, release folder and networks, and call `ended`."""
        self.outcome = outcome
        self.built = self.loop = None
        self.held.close()
        self.ended(outcome)

    def _reuse(self) -> bool:
        found = processes.broadcast_object(self._reusable)
        if found is not None:
            changed = changed_plugins(found, self.spec.plugins)
            self.end(RunResult(found, self.folder, reused=True, changed=changed))
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
        left = read_record(self.place / RECORD)
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


def _figures(record: Record) -> dict[str, float]:
    """Return the final figures of a run by name."""
    figures = {name: value_of(record, name) for name in METRIC_NAMES}
    return {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}
