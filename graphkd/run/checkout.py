"""The git checkout that graphkd runs from, and which of its files are not committed."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path


def checkout() -> Path | None:
    """Return the git checkout that graphkd runs from; None for an installed copy."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / ".git").exists() else None


@functools.cache  # a process keeps the code that it has loaded
def uncommitted(root: Path | None) -> frozenset[Path]:
    """Return the new and changed files of the package graphkd in a checkout.

    Raises:
        OSError: git cannot be started.
        subprocess.CalledProcessError: It fails.
    """
    if root is None:
        return frozenset()
    words = ("-c", "status.renames=false", "status", "--porcelain", "-z", "--untracked-files=all", "--", "graphkd")
    return frozenset(root / line[3:] for line in git(root, *words).split("\0") if line)


def git(root: Path, *arguments: str) -> str:
    """Return what git says of a checkout, without optional locks: a run that is killed must not leave one behind.

    Raises:
        OSError: git cannot be started.
        subprocess.CalledProcessError: It fails.
    """
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return os.fsdecode(subprocess.run(command, check=True, capture_output=True).stdout)
