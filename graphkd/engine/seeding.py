"""Named random streams from one seed.

A stream depends on (seed, name) only, so that variants with one seed share the student's initial weights, the order of
the samples and their augmentation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *names: str | int) -> int:
    """Return the seed of a named stream, in [0, 2**63)."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator for a named stream, on a device."""
    return torch.Generator(device).manual_seed(derive(seed, *names))


def seed_default(seed: int, device: torch.device) -> None:
    """Seed torch's default generators of the CPU and of one device.

    `torch.manual_seed` seeds every kind of device that torch knows. Where it has not begun to use one, it notes the
    stack for later, which takes longer than many of a small network's kernels.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def initialising(seed: int, *names: str | int) -> Iterator[None]:
    """Initialise modules from a named stream in this context; restore torch's default CPU generator after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *names))
        yield
