"""Metrics for Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from graphkd.logger.base import LOGGERS, LoggedRun, Logger, import_tool


@LOGGERS.register("wandb")
class WandbLogger(Logger):
    """A Weights & Biases run in the group of its study; a resumed run goes on under the same id."""

    def __init__(
        self, project: str = "graphkd", entity: str | None = None,
        mode: Literal["online", "offline"] = "online",
    ) -> None:  # fmt: skip
        """Create a Weights & Biases logger.

        Args:
            project: Name of the project.
            entity: User or team; None for the default one.
            mode: Whether to send metrics at once, or to keep them in the run's folder for `wandb sync`.

        Raises:
            UserError: Weights & Biases is not installed.
        """
        self._wandb = import_tool("wandb", "wandb")
        self._options = {"project": project, "entity": entity, "mode": mode}
        self._run: Any = None

    def open(self, run: LoggedRun) -> None:
        self._run = self._wandb.init(
            **self._options, id=run.key, name=run.name, group=run.study, config=dict(run.config), dir=str(run.folder),
            resume="allow", reinit="create_new", settings=self._wandb.Settings(silent=True),
        )  # fmt: skip

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        self._run.log(dict(metrics), step=epoch)

    def close(self, summary: Mapping[str, float]) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if summary else 1)
