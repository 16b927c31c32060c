"""Loggers: tools to watch trainings with, beside the files that every run writes."""

from graphkd.logger.base import LOGGERS, LoggedRun, Logger, LoggerCallback

__all__ = ["LOGGERS", "LoggedRun", "Logger", "LoggerCallback"]
