"""Named streams of randomness, all from one seed.

Every stream depends on (seed, name) alone, so two variants of one seed share whatever has the same name: the student's
initial weights, the order of the samples and their augmentation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *names: str | int) -> int:
    """Return a seed of its own for a named stream, in [0, 2**63)."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator for a named stream, on a device."""
    return torch.Generator(device).manual_seed(derive(seed, *names))


@contextmanager
def initialising(seed: int, *names: str | int) -> Iterator[None]:
    """Within it, modules initialise from a named stream; torch's default CPU generator is as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *names))
        yield
