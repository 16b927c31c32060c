from __future__ import annotations

import pytest
import torch

from graphkd.engine import memory

CPU = torch.device("cpu")


def test_the_peak_stays_when_the_memory_is_free_again() -> None:
    memory.reset_peak(CPU)
    before = memory.peak_mib(CPU)
    block = torch.ones(64 << 20, dtype=torch.uint8)
    del block
    assert memory.peak_mib(CPU) >= before
    assert memory.peak_mib(CPU) > 10


def test_a_new_measurement_forgets_the_old_peak() -> None:
    memory.reset_peak(CPU)
    low = memory.peak_mib(CPU)
    block = torch.ones(128 << 20, dtype=torch.uint8)
    high = memory.peak_mib(CPU)
    del block
    if high < low + 100:
        pytest.skip("the system lent memory that this process had before")
    memory.reset_peak(CPU)
    if memory.peak_mib(CPU) == high:
        pytest.skip("the system does not let us reset its peak")
    assert memory.peak_mib(CPU) < high - 100


@pytest.mark.gpu
def test_on_cuda_the_tensors_count() -> None:
    device = torch.device("cuda")
    memory.reset_peak(device)
    before = memory.peak_mib(device)
    block = torch.ones(64 << 20, dtype=torch.uint8, device=device)
    del block
    assert memory.peak_mib(device) == pytest.approx(before + 64, abs=2)
