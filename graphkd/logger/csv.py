"""Metrics as a CSV file in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphkd.logger.base import LOGGERS, LoggedRun, Logger


@LOGGERS.register("csv")
class CSVLogger(Logger):
    """A row for each epoch in `csv/metrics.csv` of the run's folder, by Lightning Fabric's logger."""

    keeps_epochs = False

    def __init__(self) -> None:
        """Create a CSV logger."""
        self._logger: Any = None

    def open(self, run: LoggedRun) -> None:
        from lightning_fabric.loggers.csv_logs import CSVLogger as Fabric

        folder = run.folder / "csv"
        (folder / "metrics.csv").unlink(missing_ok=True)
        self._logger = Fabric(run.folder, name="csv", version="", flush_logs_every_n_steps=1)

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        self._logger.log_metrics(dict(metrics), step=epoch)

    def close(self, summary: Mapping[str, float]) -> None:
        self._logger.finalize("success")
