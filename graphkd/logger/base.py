"""The base class of all loggers, and the callback that drives one."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from graphkd.engine.callback import Callback, EpochResult, ForwardingCallback, History
from graphkd.errors import UserError, one_line
from graphkd.registry import Registry


@dataclass(frozen=True)
class LoggedRun:
    """What a logger knows of a run.

    Attributes:
        study: The suite, or "adhoc".
        name: Variant and seed.
        key: The same when an interrupted run is resumed in its folder; another in another folder, and when a finished
            run is run again.
        folder: The run's folder.
        config: Its resolved config.
    """

    study: str
    name: str
    key: str
    folder: Path
    config: Mapping[str, Any]


class Logger(ABC):
    """Send the metrics of a run to a tool.

    A constructor raises a `UserError` if the tool is not installed: all loggers are built before anything is trained.
    Several loggers may be open in one process, for runs that train together.
    """

    keeps_epochs: ClassVar[bool] = True
    """Whether the tool still has the epochs before an interruption; otherwise they are logged again."""

    @abstractmethod
    def open(self, run: LoggedRun) -> None:
        """Start logging, or go on with an interrupted run."""

    @abstractmethod
    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Log the metrics of an epoch, counted from 1."""

    @abstractmethod
    def close(self, summary: Mapping[str, float]) -> None:
        """Log the final figures, which are empty if the run failed or was interrupted, and end."""


LOGGERS: Registry[Logger] = Registry("logger", "graphkd.logger")


class LoggerCallback(ForwardingCallback):
    """Log every epoch of a student's or teacher's own training, and pass all events on to another callback."""

    def __init__(self, logger: Logger, run: LoggedRun, callback: Callback) -> None:
        """Open the logger; raise a `UserError` if its tool refuses."""
        super().__init__(callback)
        self._logger = logger
        self.quiet = callback.quiet
        self._works = True
        try:
            logger.open(run)
        except Exception as error:
            raise UserError(f"the logger does not start: {one_line(error)}") from error

    def close(self, summary: Mapping[str, float]) -> None:
        """Log the final figures, if any, and end, also a tool that has failed before: it may hold a connection."""
        self._try(lambda: self._logger.close(summary))

    def resume(self, history: History) -> None:
        """See `Callback`."""
        if not self._logger.keeps_epochs:
            for epoch in history.epochs:
                self._log(epoch)
        super().resume(history)

    def epoch(self, epoch: EpochResult) -> None:
        """See `Callback`."""
        if epoch.stage is None:
            self._log(epoch)
        super().epoch(epoch)

    def _log(self, epoch: EpochResult) -> None:
        if self._works:
            self._try(lambda: self._logger.log(_metrics(epoch), epoch.epoch))

    def _try(self, action: Callable[[], None]) -> None:
        """Call the tool; at its first failure, say so and log no more: the training goes on."""
        try:
            action()
        except Exception as error:
            if self._works:
                self._callback.note(f"the logger stopped, the training goes on: {one_line(error)}")
            self._works = False


def import_tool(module: str, logger: str) -> Any:
    """Return the module of a tool.

    Raises:
        UserError: It is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        hint = f"python -m pip install -e '.[{logger}]' in graphkd's checkout"
        raise UserError(f"logger={logger} needs a package that is not installed ({error.name}): {hint}") from error


def _metrics(epoch: EpochResult) -> dict[str, float]:
    """Return the metrics of an epoch under flat names."""
    metrics = {"lr": epoch.lr, "train/loss": epoch.total}
    if epoch.train_top1 is not None:
        metrics["train/top1"] = epoch.train_top1
    for name, term in epoch.terms.items():
        metrics[f"terms/{name}"] = term["raw"]
    for split, found in (("val", epoch.val), ("test", epoch.test)):
        if found is not None:
            figures = {"top1": found.top1, "top5": found.top5, "nll": found.nll}
            metrics |= {f"{split}/{name}": value for name, value in figures.items() if value is not None}
    return metrics | {f"diagnostics/{name}": value for name, value in epoch.diagnostics.items()}
