"""Metrics for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphkd.logger.base import LOGGERS, LoggedRun, Logger, import_tool


@LOGGERS.register("tensorboard")
class TensorBoardLogger(Logger):
    """Event files in `tensorboard/` of the run's folder: `tensorboard --logdir results`."""

    def __init__(self) -> None:
        """Create a TensorBoard logger; raise a `UserError` if TensorBoard is not installed."""
        import_tool("tensorboard", "tensorboard")
        self._logger: Any = None

    def open(self, run: LoggedRun) -> None:
        from lightning_fabric.loggers.tensorboard import TensorBoardLogger as Fabric

        self._logger = Fabric(run.folder, name="tensorboard", version="")

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        self._logger.log_metrics(dict(metrics), step=epoch)
        self._logger.save()

    def close(self, summary: Mapping[str, float]) -> None:
        if summary:
            self._logger.log_hyperparams({}, dict(summary))
        self._logger.finalize("success")
