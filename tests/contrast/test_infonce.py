"""The fast losses against the naive ones, in value and gradient."""

from __future__ import annotations

from unittest.mock import patch

import naive
import pytest
import torch
import torch.nn.functional as F
from golden import Golden, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graphkd.contrast import (
    ExplicitSelection,
    FullBank,
    QueueBank,
    Selection,
    build_sampler,
    info_nce,
    infonce,
    nce,
    nce_log_normalizer,
)
from graphkd.contrast.selection import AllSelection
from graphkd.errors import UserError

SAMPLERS = ["explicit", "shared", "all", "all_weighted"]


class Case:
    """A bank, a batch and the negatives chosen for it, all from one seed."""

    def __init__(
        self,
        sampler: str,
        parts: int = 2,
        anchors: int = 5,
        rows: int = 30,
        dim: int = 4,
        count: int = 8,
        classes: int = 3,
        temperature: float = 0.3,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        draw = torch.Generator().manual_seed(seed)
        # squared, so that small classes are rare; two samples make sure of two classes
        labels = (torch.rand(rows, generator=draw) ** 3 * classes).long()
        labels[:2] = torch.tensor([0, 1])
        self.bank = FullBank(labels, dim, dtype=dtype, generator=draw)
        self.rows = self.bank.rows
        self.labels = labels[torch.randint(rows, (anchors,), generator=draw)]
        vectors = torch.randn(2, parts, anchors, dim, dtype=dtype, generator=draw)
        self.queries, self.positives = F.normalize(vectors, dim=-1)
        self.queries.requires_grad_()
        self.temperature = temperature
        self.selection = build_sampler(sampler, self.bank, count).select(self.labels, draw)
        self.upstream = torch.randn(parts, dtype=dtype, generator=draw)

    def loss(self) -> Tensor:
        """Ours, of each part."""
        return info_nce(self.queries, self.positives, self.bank, self.selection, self.temperature)

    def naive_loss(self, queries: Tensor) -> Tensor:
        """From weights for every row, in float64, of each part."""
        weights = naive.table(self.selection, len(self.rows))
        parts = zip(queries, self.positives.double(), strict=True)
        losses = [naive.weighted_info_nce(q, p, self.rows.double(), weights, self.temperature) for q, p in parts]
        return torch.stack(losses)

    def errors(self) -> tuple[float, float]:
        """How far loss and gradient are from the naive ones; see `relative`."""
        exact_queries = self.queries.detach().double().requires_grad_()
        ours, exact = self.loss(), self.naive_loss(exact_queries)
        (gradient,) = torch.autograd.grad(ours @ self.upstream, self.queries)
        (exact_gradient,) = torch.autograd.grad(exact @ self.upstream.double(), exact_queries)
        return relative(ours, exact), relative(gradient, exact_gradient)


def relative(found: Tensor, expected: Tensor) -> float:
    """The difference in terms of the largest value expected, or 1e-4 (below it the naive one is inexact)."""
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-4))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    return Case(
        draw(st.sampled_from(SAMPLERS)),
        parts=draw(st.integers(1, 3)),
        anchors=draw(st.integers(1, 6)),
        rows=draw(st.integers(2, 40)),
        dim=draw(st.integers(1, 9)),
        count=draw(st.integers(1, 30)),
        classes=draw(st.integers(2, 6)),
        temperature=draw(st.sampled_from([0.05, 0.07, 0.5, 2.0])),
        seed=draw(st.integers(0, 2**31)),
    )


@settings(max_examples=150, deadline=None)
@given(case=cases(), entries=st.sampled_from([1, 16, 60, 1 << 18]), gather_from=st.sampled_from([0, 3, 10**9]))
def test_equals_the_naive_loss_and_gradient_whatever_the_blocks(case: Case, entries: int, gather_from: int) -> None:
    with (
        patch.object(infonce, "_block_entries", lambda device: entries),
        patch("graphkd.contrast.selection.GATHER_FROM", gather_from),
    ):
        loss_error, gradient_error = case.errors()
    assert loss_error <= 1e-9
    assert gradient_error <= 1e-9


@settings(max_examples=50, deadline=None)
@given(case=cases())
def test_is_the_cross_entropy_over_the_gathered_embeddings(case: Case) -> None:
    counts = naive.table(case.selection, len(case.rows))
    if (counts != counts.round()).any() or (counts.sum(1) != counts.sum(1)[0]).any():
        return
    chosen = naive.lists(counts)
    for part, loss in enumerate(case.loss()):
        expected = naive.info_nce(case.queries[part], case.positives[part], case.rows, chosen, case.temperature)
        assert relative(loss, expected) <= 1e-9


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("count", [300, 60])
def test_is_exact_to_float32(sampler: str, count: int) -> None:
    case = Case(sampler, anchors=16, rows=3000, dim=64, count=count, classes=20, temperature=0.07, dtype=torch.float32)
    loss_error, gradient_error = case.errors()
    assert loss_error <= 1e-6
    assert gradient_error <= 1e-6


@pytest.mark.parametrize("gather_from", [0, 10**9])
def test_one_wrong_index_among_thousands_shows_in_the_gradient(gather_from: int) -> None:
    case = Case("explicit", anchors=8, rows=4000, dim=32, count=1000, classes=10, dtype=torch.float32)
    right = case.selection
    assert isinstance(right, ExplicitSelection)
    wrong = right.indices.clone()
    wrong[3, 500] = (wrong[3, 500] + 1) % 4000
    with patch("graphkd.contrast.selection.GATHER_FROM", gather_from):
        assert case.errors()[1] <= 1e-6
        (gradient,) = torch.autograd.grad(case.loss().sum(), case.queries)
        case.selection = ExplicitSelection(wrong, 4000)
        (other,) = torch.autograd.grad(case.loss().sum(), case.queries)
    assert relative(other, gradient) > 1e-5
    assert torch.equal(other[:, :3], gradient[:, :3])


def test_an_index_listed_twice_counts_twice() -> None:
    case = Case("explicit")
    listed = torch.tensor([[1, 1, 1, 2]] * 5)
    case.selection = ExplicitSelection(listed, 30)
    for part, loss in enumerate(case.loss()):
        expected = naive.info_nce(case.queries[part], case.positives[part], case.rows, listed, case.temperature)
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_bank_may_change_before_the_backward_pass(sampler: str) -> None:
    case = Case(sampler)
    (before,) = torch.autograd.grad(case.loss().sum(), case.queries)
    loss = case.loss().sum()
    case.rows.fill_(float("nan"))
    case.positives.fill_(float("nan"))
    (after,) = torch.autograd.grad(loss, case.queries)
    assert torch.equal(before, after)


def test_gradient_flows_into_the_queries_only() -> None:
    case = Case("shared")
    case.positives.requires_grad_()
    case.rows.requires_grad_()
    case.loss().sum().backward()
    assert case.queries.grad is not None
    assert case.positives.grad is None
    assert case.rows.grad is None


def test_queries_without_gradient_have_the_same_loss() -> None:
    case = Case("shared")
    expected = case.loss().detach()
    case.queries = case.queries.detach()
    assert torch.equal(case.loss(), expected)
    assert not case.loss().requires_grad


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_computes_in_float32_whatever_the_storage(sampler: str, dtype: torch.dtype) -> None:
    case = Case(sampler, dtype=torch.float32)
    case.bank.rows = case.rows.to(dtype)
    stored = case.loss()
    expected = info_nce(case.queries, case.positives, case.rows.to(dtype).float(), case.selection, case.temperature)
    assert stored.dtype == torch.float32
    assert torch.equal(stored, expected)


def test_stays_in_float32_under_autocast() -> None:
    case = Case("shared", dtype=torch.float32)
    expected = case.loss()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(case.loss(), expected)
        case.queries = case.queries.detach().bfloat16().requires_grad_()
        assert case.loss().dtype == torch.float32
    case.loss().sum().backward()
    assert case.queries.grad is not None
    assert case.queries.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("temperature", [1e-3, 1e-2, 100.0])
def test_extreme_temperatures_neither_overflow_nor_underflow(sampler: str, temperature: float) -> None:
    case = Case(sampler, rows=200, dim=8, temperature=temperature, dtype=torch.float32)
    exact_queries = case.queries.detach().double().requires_grad_()
    with torch.no_grad():
        # an anchor's own class lies where the query does, far above every negative
        case.rows[case.bank.labels == case.labels[0]] = case.queries[0, 0] * 3
    positive = (exact_queries * case.positives).sum(-1)
    scores = exact_queries @ case.rows.double().T / temperature
    weights = naive.table(case.selection, 200)
    terms = torch.cat([positive[..., None] / temperature, scores + weights.log()], dim=-1)
    exact = (terms.logsumexp(-1) - positive / temperature).mean(1)
    torch.testing.assert_close(case.loss().double(), exact.detach(), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(case.loss().sum(), case.queries)
    (exact_gradient,) = torch.autograd.grad(exact.sum(), exact_queries)
    assert relative(gradient, exact_gradient) <= 1e-5 / min(1.0, temperature * 10)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_empty_queue_gives_zero_loss_and_gradient(sampler: str) -> None:
    bank = QueueBank(torch.tensor([0, 1, 1]), 4, 6)
    selection = build_sampler(sampler, bank, 3).select(torch.tensor([0, 1]))
    queries = torch.randn(2, 2, 4, requires_grad=True)
    loss = info_nce(queries, torch.randn(2, 2, 4), bank, selection, 0.07)
    (gradient,) = torch.autograd.grad(loss.sum(), queries)
    assert torch.equal(loss, torch.zeros(2))
    assert not gradient.any()


def test_mistakes_are_named() -> None:
    case = Case("shared")
    with pytest.raises(UserError, match=r"queries \[2, 5, 4\] and positives \[1, 5, 4\]"):
        info_nce(case.queries, case.positives[:1], case.bank, case.selection, 0.07)
    with pytest.raises(UserError, match="temperature is 0"):
        info_nce(case.queries, case.positives, case.bank, case.selection, 0)


def naive_nce(case: Case, queries: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Loss and log Z of each part, for a selection of equally many negatives."""
    chosen = naive.lists(naive.table(case.selection, len(case.rows)))
    losses, logs = [], []
    for query, positive in zip(queries, case.positives, strict=True):
        arguments = (query, positive, case.rows, chosen, case.temperature)
        normalizer = naive.nce_normalizer(*arguments, samples).detach()
        losses.append(naive.nce(*arguments, normalizer, samples))
        logs.append(normalizer.log())
    return torch.stack(losses), torch.stack(logs)


@settings(max_examples=100, deadline=None)
@given(
    case=cases(),
    entries=st.sampled_from([1, 16, 1 << 18]),
    gather_from=st.sampled_from([0, 10**9]),
    samples=st.integers(2, 10**6),
)
def test_nce_equals_the_naive_one(case: Case, entries: int, gather_from: int, samples: int) -> None:
    totals = case.selection.counts()
    if isinstance(case.selection, AllSelection) and (case.selection.scale is not None or (totals != totals[0]).any()):
        return
    queries = case.queries.detach().requires_grad_()
    expected, expected_log = naive_nce(case, queries, samples)
    with (
        patch.object(infonce, "_block_entries", lambda device: entries),
        patch("graphkd.contrast.selection.GATHER_FROM", gather_from),
    ):
        arguments = (case.queries, case.positives, case.bank, case.selection, case.temperature)
        log_normalizer = nce_log_normalizer(*arguments, samples)
        loss = nce(*arguments, log_normalizer, samples)
    torch.testing.assert_close(log_normalizer, expected_log, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(loss @ case.upstream, case.queries)
    (expected_gradient,) = torch.autograd.grad(expected @ case.upstream, queries)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)


def test_nce_weights_all_negatives_like_k_of_them() -> None:
    weighted, every = Case("all_weighted", count=4), Case("all", count=4)
    arguments = (weighted.queries, weighted.positives, weighted.bank)
    log_normalizer = torch.zeros(2)
    of_weighted = nce(*arguments, weighted.selection, 0.3, log_normalizer, 30)
    table = naive.table(every.selection, 30)
    noise = 4 / 30
    probability = (weighted.queries.detach() @ weighted.rows.T / 0.3).exp()
    terms = -(noise / (probability + noise + 1e-7)).log() * table * (4 / table.sum(1, keepdim=True))
    positive = ((weighted.queries.detach() * weighted.positives).sum(-1) / 0.3).exp()
    expected = (terms.sum(-1) - (positive / (positive + noise + 1e-7)).log()).mean(1)
    torch.testing.assert_close(of_weighted.detach(), expected)


def test_nce_without_negatives_is_defined() -> None:
    bank = QueueBank(torch.tensor([0, 1, 1]), 4, 6)
    selection = build_sampler("shared", bank, 3).select(torch.tensor([0, 1]))
    queries = torch.randn(1, 2, 4, requires_grad=True)
    loss = nce(queries, queries.detach(), bank, selection, 0.07, torch.zeros(1), 3)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert queries.grad is not None
    assert queries.grad.isfinite().all()


def test_nce_reproduces_the_published_values() -> None:
    """CRD's own steps: each side's query against the other network's bank."""
    golden = Golden("losses")
    vectors = {"s": golden["student.vector"].requires_grad_(), "t": golden["teacher.vector"]}
    heads = {}
    for side, vector in vectors.items():
        heads[side] = nn.Linear(vector.shape[1], 16)
        heads[side].load_state_dict(golden.under(f"crd.param.embed_{side}"))
    labels = torch.arange(200) % 2
    banks = {"s": FullBank(labels, 16), "t": FullBank(labels, 16)}
    banks["s"].rows.copy_(golden["crd.bank.student"])
    banks["t"].rows.copy_(golden["crd.bank.teacher"])
    logs: dict[str, Tensor] = {}
    for step in ("crd.step0", "crd.step1"):
        index, contrast = golden[f"{step}.index"], golden[f"{step}.contrast_index"]
        selection = ExplicitSelection(contrast[:, 1:], 200)
        embeddings = {side: F.normalize(heads[side](vectors[side]), dim=1) for side in vectors}
        losses = []
        for side, other in (("s", "t"), ("t", "s")):
            positives = banks[other].gather(contrast[:, 0], embeddings[side])
            arguments = (embeddings[side][None], positives[None], banks[other], selection, 0.07)
            if side not in logs:
                logs[side] = nce_log_normalizer(*arguments, 200)
            losses.append(nce(*arguments, logs[side], 200).sum())
        loss = torch.stack(losses).sum()
        (gradient,) = torch.autograd.grad(loss, vectors["s"])
        assert_close(loss.detach(), golden[f"{step}.loss"])
        assert_close(gradient, golden[f"{step}.grad0"])
        for side, name in (("s", "student"), ("t", "teacher")):
            banks[side].update(index, embeddings[side], 0.5)
            assert_close(banks[side].rows, golden[f"{step}.bank.{name}"])
    assert_close(torch.cat([logs["s"], logs["t"]]).exp(), golden["crd.Z"])


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["full", "queue"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_step_on_cuda_never_waits_for_the_device(sampler: str, kind: str) -> None:
    labels = torch.arange(20000) % 7
    bank = FullBank(labels, 16) if kind == "full" else QueueBank(labels, 16, 5000)
    bank.to("cuda")
    draw = torch.Generator("cuda").manual_seed(0)
    indices = torch.arange(40, device="cuda")
    anchors = indices % 7
    queries = F.normalize(torch.randn(1, 40, 16, device="cuda"), dim=-1).requires_grad_()
    bank.update(indices, queries[0], 0.9)
    chooser = build_sampler(sampler, bank, 100)

    def step() -> tuple[Tensor, Selection]:
        selection = chooser.select(anchors, draw)
        positives = bank.gather(indices, queries[0])[None]
        loss = info_nce(queries, positives, bank, selection, 0.07)
        loss.sum().backward()
        bank.update(indices, queries[0], 0.9)
        return loss, selection

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss, _ = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite().all()
