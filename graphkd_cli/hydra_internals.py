"""All private parts of Hydra, OmegaConf and ANTLR that graphkd uses; `tests/cli/test_hydra_internals.py` lists them.

Other modules use Hydra's public interface and the names of this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from antlr4.error.Errors import LexerNoViableAltException  # type: ignore[import-untyped]
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

__all__ = [
    "Callbacks",
    "ConfigLoaderImpl",
    "FileConfigSource",
    "Hydra",
    "SourcesRegistry",
    "apply_overrides",
    "config_file",
    "create_config_search_path",
    "expand_choices",
    "get_args_parser",
    "swept_choices",
    "unreadable_position",
]


def apply_overrides(overrides: Sequence[Override], config: DictConfig) -> None:
    """Apply parsed overrides to a config in place.

    Raises:
        HydraException: An override does not fit the config.
    """
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)


def config_file(source: FileConfigSource, name: str) -> Path:
    """Return the file of a named config of a source."""
    return Path(source.path, source._normalize_file_name(name))


def expand_choices(overrides: Sequence[Override]) -> list[list[str]]:
    """Return every combination of the values of a sweep, each as a list of overrides.

    Raises:
        HydraException: A sweep is not a grid.
    """
    combinations: list[list[str]] = BasicSweeper.split_arguments(list(overrides), max_batch_size=None)[0]
    return combinations


def swept_choices(override: Override) -> list[Any] | None:
    """Return the values `a,b,c` of a sweep, or None for a range, an interval or anything else."""
    sweep = override._value
    return list(sweep.list) if isinstance(sweep, ChoiceSweep) else None


def unreadable_position(error: BaseException) -> int | None:
    """Return the position in an override at which the lexer failed, or None for another error."""
    cause = error.__cause__
    return int(cause.startIndex) if isinstance(cause, LexerNoViableAltException) else None


def _return_value(job: JobReturn) -> Any:
    """Return the result of a job or raise its error.

    Hydra's own version also writes the job's overrides to stderr; the command reports the failure itself.
    """
    if job.status == JobStatus.FAILED:
        raise job._return_value
    return job._return_value


JobReturn.return_value = JobReturn.__dict__["return_value"].getter(_return_value)  # type: ignore[method-assign]
