"""Execute runs: one, or several on one stream of batches and teacher outputs, after their teacher."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from graphkd.data import Dataset
from graphkd.engine import memory
from graphkd.engine.callback import Callback, History
from graphkd.engine.feed import Feed
from graphkd.engine.loop import TrainingLoop
from graphkd.engine.threads import torch_threads
from graphkd.engine.together import train_together
from graphkd.errors import check
from graphkd.identity import cached_fingerprints
from graphkd.model import Network
from graphkd.report.record import Teacher
from graphkd.run import processes
from graphkd.run.execution import Execution
from graphkd.run.folder import CONFIG, BusyError, busy, finished
from graphkd.run.parse import write_spec
from graphkd.run.rehearsal import rehearse, waits_for_teacher
from graphkd.run.result import RunResult
from graphkd.run.spec import RunSpec
from graphkd.run.weights import load_teacher

MEMORY_SHARE = 0.25
"""Share of the free memory that the runs of a group may use; other workers start at the same time."""


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


@cached_fingerprints()
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
        Execution(spec, callback, partial(ended, at))
        for at, (spec, callback) in enumerate(zip(specs, callbacks, strict=True))
    ]
    try:
        for each in runs:
            each.attempt(each.look)
        left = _left(runs)
        check(len({each.folder for each in left}) == len(left), "two runs that train together share a folder")
        if left and processes.needed(trainer, worker):
            for each in left:
                each.attempt(partial(_run_in_processes, each, str(worker), wait))
        elif left:
            _train(left, dataset or specs[0].data.build(), worker, wait)
    finally:
        for each in runs:
            each.held.close()
    outcomes = [each.outcome for each in runs if each.outcome is not None]
    if len(outcomes) < len(runs):
        raise KeyboardInterrupt  # the handler of the signal did not raise
    return outcomes


def _run_in_processes(execution: Execution, worker: str, wait: bool) -> None:
    """Execute a run in one process per device; the main process shows the progress."""
    spec, teacher = execution.spec, execution.spec.teacher
    if not wait and busy(execution.folder):
        raise BusyError(f"another process is working in {execution.folder}")
    if waits_for_teacher(spec):
        rehearse(spec, spec.data.build())
    if teacher is not None and not teacher.checkpoint and teacher.trainer.processes != spec.trainer.processes:
        run(teacher, execution.callback, worker=worker)
    with tempfile.TemporaryDirectory(prefix="graphkd-") as place:
        resolved = Path(place) / CONFIG
        write_spec(spec, resolved)
        processes.start(worker, resolved, spec.trainer.devices, ["--quiet"] if execution.callback.quiet else [])
    record = finished(execution.folder, spec.identity, spec.seed)
    assert record is not None, "the processes succeeded"
    execution.end(RunResult(record, execution.folder, reused=False))


def _train(runs: Sequence[Execution], dataset: Dataset, worker: str | None, wait: bool) -> None:
    """Train runs after their teacher: as many together as memory allows, then the rest."""
    for each in runs:
        each.attempt(partial(each.rehearse, dataset))
    left = _left(runs)
    teacher: Network | None = None
    known: Teacher | Exception | None = None
    while left:
        budget = MEMORY_SHARE * memory.available_bytes(runs[0].spec.trainer.check_machine())
        group: list[Execution] = []
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


def _train_started(runs: Sequence[Execution], teacher: Network | None) -> None:
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


def _left(runs: Iterable[Execution]) -> list[Execution]:
    return [each for each in runs if each.outcome is None]


def _known_teacher(learning: Execution, dataset: Dataset, worker: str | None) -> Teacher | Exception:
    """Return the teacher for the records, with its weights loaded, or the error."""
    spec, network, trainer = learning.spec.teacher, learning.teacher, learning.spec.trainer
    assert spec is not None
    assert network is not None
    own = dataset if spec.data == learning.spec.data else None
    train = partial(run, spec, learning.callback, dataset=own, worker=worker)
    try:
        with torch_threads(trainer.threads):
            return load_teacher(network, spec, trainer, dataset, learning.callback, train)
    except Exception as error:
        return error
