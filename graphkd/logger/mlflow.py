"""Metrics for MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from graphkd.logger.base import LOGGERS, LoggedRun, Logger, import_tool


@LOGGERS.register("mlflow")
class MLflowLogger(Logger):
    """An MLflow run in the experiment of its study; a resumed run goes on in the same one."""

    def __init__(self, tracking_uri: str | None = None, experiment: str | None = None) -> None:
        """Create an MLflow logger.

        Args:
            tracking_uri: Where the server or the store is; None for MLflow's own setting.
            experiment: Name of the experiment; None for the study's.

        Raises:
            UserError: MLflow is not installed.
        """
        self._tracking = import_tool("mlflow.tracking", "mlflow")
        self._metric = import_tool("mlflow.entities", "mlflow").Metric
        self._tracking_uri, self._experiment = tracking_uri, experiment
        self._client: Any = None
        self._run_id = ""

    def open(self, run: LoggedRun) -> None:
        name = self._experiment or run.study
        self._client = self._tracking.MlflowClient(self._tracking_uri)
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        earlier = self._client.search_runs([experiment], f"tags.graphkd = '{run.key}'", max_results=1)
        tags = {"graphkd": run.key}
        entry = earlier[0] if earlier else self._client.create_run(experiment, tags=tags, run_name=run.name)
        self._run_id = entry.info.run_id
        if not earlier:
            self._client.log_dict(self._run_id, dict(run.config), "config.yaml")

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        # One request for all of them: one each takes many times longer.
        now = int(1000 * time.time())
        entities = [self._metric(name, value, now, epoch) for name, value in metrics.items()]
        self._client.log_batch(self._run_id, metrics=entities)

    def close(self, summary: Mapping[str, float]) -> None:
        if summary:
            self.log(summary, 0)
        self._client.set_terminated(self._run_id, "FINISHED" if summary else "FAILED")
