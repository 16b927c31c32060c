"""What banks hold, before and after updates and checkpoints."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graphkd.contrast import Bank, FullBank, QueueBank
from graphkd.contrast.options import BankOptions
from graphkd.errors import UserError

LABELS = torch.arange(12) % 3
KINDS: dict[str, dict[str, Any]] = {"full": {}, "queue": {"length": 5}}


def batch(*indices: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    values = torch.randn(len(indices), 4, generator=torch.Generator().manual_seed(seed))
    return torch.tensor(indices), F.normalize(values, dim=1)


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_starts_uniform_from_its_generator(kind: str, dtype: str) -> None:
    def build(seed: int) -> Tensor:
        options = {"length": 20000} if kind == "queue" else {}
        labels = torch.arange(20000) % 7
        generator = torch.Generator().manual_seed(seed)
        return BankOptions(kind, dtype=dtype, **options).build(labels, 6, generator).rows

    rows, bound = build(0), (6 / 3) ** -0.5
    assert rows.dtype == getattr(torch, dtype)
    assert torch.equal(rows, build(0))
    assert not torch.equal(rows, build(1))
    shares = torch.histc(rows.float(), 10, -bound, bound) / rows.numel()
    assert shares.sum() == pytest.approx(1, abs=0.02)
    assert shares.min() > 0.09
    assert float(rows.float().norm(dim=1).std()) > 0.1


def test_full_moves_the_rows_of_a_batch_and_no_others() -> None:
    bank = FullBank(LABELS, 4)
    before = bank.rows.clone()
    indices, values = batch(7, 2, 11)
    bank.update(indices, values, 0.9)
    expected = before.clone()
    for index, value in zip(indices.tolist(), values, strict=True):
        mixed = 0.9 * before[index] + 0.1 * value
        expected[index] = mixed / mixed.pow(2).sum().sqrt()
    torch.testing.assert_close(bank.rows, expected)
    assert torch.equal(bank.rows[torch.tensor([0, 1, 3])], before[torch.tensor([0, 1, 3])])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("on_host", [False, True])
def test_gathers_float32_copies(kind: str, dtype: str, on_host: bool) -> None:
    bank = BankOptions(kind, dtype=dtype, on_host=on_host, **KINDS[kind]).build(LABELS, 4)
    indices, values = batch(3, 8)
    bank.update(indices, values, 0.0)
    gathered = bank.gather(indices, torch.zeros(2, 4))
    assert gathered.dtype == torch.float32
    torch.testing.assert_close(gathered, values, rtol=0, atol=4e-3 if dtype == "bfloat16" else 5e-4)
    gathered.fill_(9)
    assert bank.rows.float().max() < 2


@pytest.mark.parametrize("kind", KINDS)
def test_takes_values_with_gradient_and_of_lower_precision(kind: str) -> None:
    bank = BankOptions(kind, **KINDS[kind]).build(LABELS, 4)
    indices, values = batch(3, 8)
    bank.update(indices, values.bfloat16().requires_grad_(), 0.5)
    assert bank.rows.dtype == torch.float32
    assert not bank.rows.requires_grad
    assert not bank.gather(indices, values.requires_grad_()).requires_grad


def test_queue_keeps_the_most_recent() -> None:
    bank = QueueBank(LABELS, 4, 5)
    assert bank.used == 0
    assert bank.labels.tolist() == bank.indices.tolist() == [-1] * 5
    bank.update(*batch(4, 7, 2), 0.5)
    assert bank.used == 3
    assert bank.indices.tolist() == [4, 7, 2, -1, -1]
    assert bank.labels.tolist() == [1, 1, 2, -1, -1]
    bank.update(*batch(0, 9, 11), 0.5)
    assert bank.used == 5
    assert bank.indices.tolist() == [11, 7, 2, 0, 9]
    assert bank.labels.tolist() == [2, 1, 2, 0, 0]


def test_a_batch_longer_than_the_queue_leaves_its_end() -> None:
    bank = QueueBank(LABELS, 4, 5)
    indices, values = batch(0, 1, 2, 3, 4, 5, 6)
    bank.update(indices, values, 0.5)
    assert bank.indices.tolist() == [2, 3, 4, 5, 6]
    torch.testing.assert_close(bank.rows, values[2:])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), length=st.integers(1, 9))
def test_queue_behaves_like_a_list(data: st.DataObject, length: int) -> None:
    bank: Bank = QueueBank(LABELS, 4, length)
    model: list[tuple[int, Tensor]] = []
    batches = data.draw(st.lists(st.permutations(range(12)).map(lambda order: order[:3]), max_size=8))
    reload_at = data.draw(st.integers(0, 8))
    for step, indices in enumerate(batches):
        if step == reload_at:
            other = QueueBank(LABELS, 4, length)
            other.load_state_dict(saved_and_loaded(bank.state_dict()))
            bank = other
        _, values = batch(*indices, seed=step)
        known = dict(model)
        bank.update(torch.tensor(indices), values, 0.25)
        moved = {i: F.normalize(0.25 * known.get(i, v) + 0.75 * v, dim=0) for i, v in zip(indices, values, strict=True)}
        model = [*model, *moved.items()][-length:]
        fallback = torch.full((12, 4), 5.0)
        expected = torch.stack([dict(model).get(index, fallback[index]) for index in range(12)])
        torch.testing.assert_close(bank.gather(torch.arange(12), fallback), expected)
        assert sorted(i for i in bank.view().indices.tolist() if i >= 0) == sorted(i for i, _ in model)
        assert bank.used == len(model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_brings_it_back(kind: str) -> None:
    bank, other = (BankOptions(kind, **KINDS[kind]).build(LABELS, 4) for _ in range(2))
    bank.update(*batch(4, 7, 2), 0.5)
    bank.update(*batch(5, 7, 1, seed=1), 0.5)
    other.load_state_dict(saved_and_loaded(bank.state_dict()))
    bank.update(*batch(6, 7, seed=2), 0.5)
    other.update(*batch(6, 7, seed=2), 0.5)
    assert torch.equal(bank.rows, other.rows)
    assert torch.equal(bank.labels, other.labels)
    assert bank.used == other.used


def test_a_checkpoint_of_another_shape_or_kind_is_refused() -> None:
    bank = FullBank(LABELS, 4)
    with pytest.raises(UserError, match=r"\[12, 3\] .* \[12, 4\]"):
        bank.load_state_dict(FullBank(LABELS, 3).state_dict())
    with pytest.raises(UserError, match=r"indices, labels, pushed, rows, but this FullBank holds rows"):
        bank.load_state_dict(QueueBank(LABELS, 4, 12).state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_view_shares_the_rows(kind: str) -> None:
    bank = BankOptions(kind, **KINDS[kind]).build(LABELS, 4)
    bank.update(*batch(4, 7), 0.5)
    view = bank.view()
    assert view.rows.data_ptr() == bank.rows.data_ptr()
    if kind == "full":
        assert view.labels.tolist() == LABELS.tolist()
        assert view.indices is None
    else:
        assert view.labels.tolist() == [1, 1, -1, -1, -1]
        assert view.indices is not None
        assert view.indices.tolist() == [4, 7, -1, -1, -1]


@pytest.mark.parametrize("kind", KINDS)
def test_is_neither_a_module_nor_left_behind_by_to(kind: str) -> None:
    bank = BankOptions(kind, **KINDS[kind]).build(LABELS, 4)
    assert not isinstance(bank, nn.Module)
    assert bank.to("meta") is bank
    tensors = [value for value in vars(bank).values() if isinstance(value, Tensor)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    on_host = BankOptions(kind, on_host=True, **KINDS[kind]).build(LABELS, 4).to("meta")
    assert on_host.rows.device.type == "cpu"
    assert on_host.labels.device.type == "meta"


def test_rows_sorted_by_class() -> None:
    labels = torch.tensor([2, 0, 2, 1, 0, 2])
    bank = FullBank(labels, 4)
    order = bank.by_class()
    start, size = order.blocks(torch.tensor([0, 1, 2]))
    assert order.rows.tolist() == [1, 4, 3, 0, 2, 5]
    assert start.tolist() == [0, 2, 3]
    assert size.tolist() == [2, 1, 3]
    assert bank.largest_class == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_twin_has_rows_of_its_own(kind: str) -> None:
    bank = BankOptions(kind, **KINDS[kind]).build(LABELS, 4)
    twin = bank.twin(torch.Generator().manual_seed(2))
    other = BankOptions(kind, **KINDS[kind]).build(LABELS, 4, torch.Generator().manual_seed(2))
    assert torch.equal(twin.rows, other.rows)
    before = {name: value.clone() for name, value in vars(bank).items() if isinstance(value, Tensor)}
    twin.update(*batch(4, 7), 0.5)
    assert all(torch.equal(getattr(bank, name), value) for name, value in before.items())
    assert twin.used == (len(LABELS) if kind == "full" else 2)


def test_a_queue_on_a_cpu_knows_its_largest_class() -> None:
    bank = QueueBank(torch.arange(20) % 3, 4, 6)
    assert bank.largest_class == 0
    bank.update(*batch(0, 3, 6, 1), 0.5)
    assert bank.largest_class == 3
    bank.update(*batch(2, 5, 8, 11), 0.5)
    assert bank.largest_class == 4
    assert bank.used == 6


def test_twins_share_what_is_known_of_the_samples() -> None:
    bank = FullBank(LABELS, 4)
    assert bank.twin().samples is bank.samples


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="all 3 training labels are 7: contrast needs at least two classes"):
        FullBank(torch.tensor([7, 7, 7]), 4)
    with pytest.raises(UserError, match="at least two classes"):
        QueueBank(torch.tensor([7, 7, 7]), 4, 2)
    with pytest.raises(UserError, match=r"int64 \[N\], not torch.float32 \[2\]"):
        FullBank(torch.tensor([0.0, 1.0]), 4)
    with pytest.raises(UserError, match="labels of 0 or more"):
        FullBank(torch.tensor([0, -1]), 4)
    with pytest.raises(UserError, match="length is 0"):
        QueueBank(LABELS, 4, 0)
    with pytest.raises(UserError, match=r"no bank 'ful'; did you mean 'full'\?"):
        BankOptions("ful").build(LABELS, 4)
    with pytest.raises(UserError, match=r"no storage of a bank 'bfloat17'; did you mean 'bfloat16'\?"):
        BankOptions(dtype="bfloat17").build(LABELS, 4)
    with pytest.raises(UserError, match="takes no length"):
        BankOptions(length=3).build(LABELS, 4)
    with pytest.raises(UserError, match="needs its length"):
        BankOptions("queue").build(LABELS, 4)
