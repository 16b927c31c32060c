"""Values that the published implementations returned, and how close ours must come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "golden"
TOLERANCE = 1e-5


class Golden:
    """The arrays of one file as tensors."""

    def __init__(self, name: str) -> None:
        self._arrays = np.load(FOLDER / f"{name}.npz")

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self._arrays[name])

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Everything below a prefix, by the rest of its name."""
        names = [name for name in self._arrays.files if name.startswith(prefix + ".")]
        return {name.removeprefix(prefix + "."): self[name] for name in names}


def assert_close(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Compares with respect to the largest expected value."""
    assert found.shape == expected.shape
    worst = (found - expected).abs().max() / expected.abs().max()
    assert worst <= tolerance, f"off by {worst:.2e} of the largest value, allowed are {tolerance:.0e}"
