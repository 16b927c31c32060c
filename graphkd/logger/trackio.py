"""Metrics for Trackio."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

from graphkd.logger.base import LOGGERS, LoggedRun, Logger, import_tool


@LOGGERS.register("trackio")
class TrackioLogger(Logger):
    """A Trackio run in the group of its study, kept on this machine: `trackio show`."""

    def __init__(self, project: str = "graphkd") -> None:
        """Create a Trackio logger.

        Args:
            project: Name of the project.

        Raises:
            UserError: Trackio is not installed.
        """
        self._trackio = import_tool("trackio", "trackio")
        self._project = project
        self._run: Any = None

    def open(self, run: LoggedRun) -> None:
        with redirect_stdout(io.StringIO()):  # it would print over the display
            self._run = self._trackio.init(
                project=self._project, name=f"{run.name} {run.key}", group=run.study, config=dict(run.config),
                resume="allow", embed=False,
            )  # fmt: skip

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        self._run.log(dict(metrics), step=epoch)

    def close(self, summary: Mapping[str, float]) -> None:
        if summary:
            self._run.log(dict(summary))
        with redirect_stdout(io.StringIO()):
            self._run.finish()
