"""How exactly products of float32 matrices are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

MatmulPrecision = Literal["highest", "high", "medium"]


@contextmanager
def matmul_precision(level: MatmulPrecision) -> Iterator[None]:
    """Within it, `torch.set_float32_matmul_precision` is at `level`; afterwards where it was."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(level)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
