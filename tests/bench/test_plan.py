"""The plan counts what an objective really holds."""

from __future__ import annotations

import pytest
import torch

from graphkd.bench import Settings
from graphkd.bench.plan import Plan
from graphkd.bench.scale import plan_of
from graphkd.bench.training import _hkd
from graphkd.contrast import Bank, FullBank, QueueBank
from graphkd.contrast.options import BankOptions
from graphkd.objective.hkd import HKD

SETTINGS = Settings(threads=1, batch=12, samples=240, negatives=40, dim=16, classes=6, k=4)


def tensors(bank: Bank) -> list[torch.Tensor]:
    """All that a bank holds."""
    if isinstance(bank, FullBank):
        return [bank.rows, bank.labels, bank.by_class().rows]
    assert isinstance(bank, QueueBank)
    return [bank.rows, bank.labels, bank.indices, bank.samples.labels, bank._row_of]


@pytest.mark.parametrize(
    "options",
    [BankOptions(), BankOptions(dtype="bfloat16"), BankOptions(kind="queue", length=50)],
)
def test_the_plan_is_what_the_banks_hold(options: BankOptions) -> None:
    hkd = _hkd(SETTINGS, 8, 8, "shared", options)
    assert isinstance(hkd, HKD)
    banks = (hkd._student_bank, hkd._teacher_bank)
    held = sum({each.data_ptr(): each.nbytes for bank in banks for each in tensors(bank)}.values())
    plan = plan_of(SETTINGS, options)
    assert plan.held == held
    assert plan.rows == hkd.student_bank.nbytes + hkd.teacher_bank.nbytes


def test_processes_share_the_rows_alone() -> None:
    alone, shared = Plan(1_000_000_000), Plan(1_000_000_000, world=64)
    assert alone.rows == alone.saved == shared.saved == 1_024_000_000_000
    assert shared.rows == alone.rows / 64
    assert shared.index == alone.index == 8_000_000_000
    assert alone.exchanged == 0
    assert shared.exchanged == 2 * 4 * 64 * (128 + 2 * (1 + 1 + 128))


def test_a_queue_grows_by_the_classes_of_the_samples_alone() -> None:
    small, large = (Plan(samples, length=65_536) for samples in (1_000_000, 2_000_000))
    assert small.rows == large.rows
    assert large.held - small.held == 12 * 1_000_000


def test_the_work_grows_with_batch_negatives_and_width() -> None:
    base = Plan(50_000)
    assert base.flops == 16 * 64 * 16_384 * 128
    assert Plan(50_000, batch=128, negatives=32_768, dim=256).flops == 8 * base.flops
