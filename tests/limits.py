"""Plugin that gives every test a time limit, in C code too; it needs nothing of graphkd."""

from __future__ import annotations

import faulthandler
import os
from typing import Any

import pytest

LIMITS = {"soak": 3600, "slow": 900}
"""Seconds that a test of a mark may take; all others have what pyproject.toml says."""
GRACE = 30
"""Seconds after its limit in which a test that the signal reached can end by itself."""


def pytest_configure(config: pytest.Config) -> None:
    global stderr
    stderr = os.dup(2)  # during a test, 2 is the file that captures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        limit = next((LIMITS[name] for name in LIMITS if item.get_closest_marker(name)), None)
        if limit is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(limit))


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(settings: Any) -> None:
    """Beside the signal, for Python handles none while C code hangs: show all stacks and end the process.

    xdist reports the test as the one that crashed its worker and goes on with a new worker.
    """
    faulthandler.dump_traceback_later(settings.timeout + GRACE, exit=True, file=stderr)


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer() -> None:
    """The test ended in time."""
    faulthandler.cancel_dump_traceback_later()
