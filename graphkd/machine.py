"""What this machine gives a process."""

from __future__ import annotations

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""A container's share of the machine: microseconds of CPU time in each period."""


def cores() -> int:
    """Return how many cores this process may use, also in a container with a share of the machine."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = map(int, _QUOTA.read_text().split())
    except (OSError, ValueError):  # no container, or no limit ("max")
        return allowed
    return min(allowed, math.ceil(quota / period))
