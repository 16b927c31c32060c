"""What the samplers choose: counts, classes, uniformity."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any
from unittest.mock import patch

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from graphkd.contrast import FullBank, QueueBank, build_sampler
from graphkd.contrast.draws import _first_occurrences, with_spare
from graphkd.contrast.selection import ExplicitSelection, SharedSelection
from graphkd.errors import UserError

DRAWN = ["explicit", "shared"]
# both ways of drawing: rejecting repeats, and ordering all rows
WAYS = [1, 10**9]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sizes_to_labels(*sizes: int) -> Tensor:
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def chi_square(observed: Tensor, expected: Tensor, freedom: int, shrink: float = 1.0) -> float:
    """The chance of frequencies this far from the expected ones; `shrink` corrects the cells' variance."""
    return float(chi2.sf(float(((observed - expected) ** 2 / expected).sum()) / shrink, freedom))


def assert_uniform(observed: Tensor, count: int) -> None:
    """Of many draws of `count` without replacement, each taking any row with the same chance."""
    pool = len(observed)
    # without replacement the frequencies vary less
    p = chi_square(observed, observed.mean().expand(pool), pool - 1, shrink=(pool - count) / (pool - 1))
    assert 1e-3 < p < 1 - 1e-3


@st.composite
def label_sets(draw: st.DrawFn) -> Tensor:
    """Training labels of 2 to 5 classes, often very unequal, in random order."""
    sizes = draw(st.lists(st.sampled_from([1, 1, 2, 5, 40]), min_size=2, max_size=5))
    labels = sizes_to_labels(*sizes)
    return labels[torch.randperm(len(labels), generator=generator(draw(st.integers(0, 99))))]


@settings(max_examples=200, deadline=None)
@given(
    labels=label_sets(),
    count=st.integers(1, 60),
    sampler=st.sampled_from(DRAWN),
    seed=st.integers(0, 99),
    reject_above=st.sampled_from([1, 2]),
    rows=st.integers(1, 70),
    pairs=st.integers(1, 500),
)
def test_exactly_k_of_other_classes_and_distinct_where_there_are_k(
    labels: Tensor, count: int, sampler: str, seed: int, reject_above: int, rows: int, pairs: int
) -> None:
    # class 9 has no training sample: all of them are its negatives
    anchors = torch.cat([labels[torch.randint(len(labels), (4,), generator=generator(seed))], torch.tensor([9])])
    chooser = build_sampler(sampler, FullBank(labels, 2), count)
    with patch("graphkd.contrast.draws._REJECT_ABOVE", reject_above):
        selection = chooser.select(anchors, generator(seed))
    table = naive.table(selection, len(labels), rows, pairs)
    own = labels == anchors[:, None]
    assert not table[own].any()
    assert (table.sum(1) == count).all()
    assert torch.equal(selection.counts().double(), table.sum(1))
    enough = (~own).sum(1) >= count
    assert (table[enough] <= 1).all()


@settings(max_examples=100, deadline=None)
@given(labels=label_sets(), count=st.integers(1, 60), weighted=st.booleans(), pairs=st.integers(1, 500))
def test_all_takes_every_row_of_another_class(labels: Tensor, count: int, weighted: bool, pairs: int) -> None:
    anchors = labels[:5]
    name = "all_weighted" if weighted else "all"
    selection = build_sampler(name, FullBank(labels, 2), count).select(anchors)
    other = (labels != anchors[:, None]).double()
    expected = other * count / other.sum(1, keepdim=True) if weighted else other
    torch.testing.assert_close(naive.table(selection, len(labels), pairs=pairs), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(selection.counts().double(), expected.sum(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("sampler", DRAWN)
@pytest.mark.parametrize("reject_above", WAYS)
@pytest.mark.parametrize("sizes", [(20, 20, 20), (50, 7, 3)])
def test_every_row_is_equally_likely(sampler: str, reject_above: int, sizes: tuple[int, ...]) -> None:
    labels, count, steps = sizes_to_labels(*sizes), 4, 600
    labels = labels[torch.randperm(60, generator=generator(1))]
    anchors = torch.arange(3)
    chooser, draw = build_sampler(sampler, FullBank(labels, 2), count), generator(2)
    seen = torch.zeros(3, 60, dtype=torch.float64)
    with patch("graphkd.contrast.draws._REJECT_ABOVE", reject_above):
        for _ in range(steps):
            seen += naive.table(chooser.select(anchors, draw), 60, 60, 180)
    for anchor in range(3):
        assert_uniform(seen[anchor, labels != anchor], count)


def frequencies(chosen: list[Any], possible: list[Any]) -> Tensor:
    """How often each possible result was seen; no other may have been."""
    seen = Counter(chosen)
    assert set(seen) <= set(possible)
    return torch.tensor([float(seen[result]) for result in possible])


def subsets(table: Tensor) -> list[Any]:
    """The rows chosen for each anchor."""
    return [tuple(rows) for rows in naive.lists(table).tolist()]


SUBSETS = list(itertools.combinations([0, 2, 3, 5, 6, 8], 2))


@pytest.mark.parametrize("reject_above", WAYS)
def test_every_subset_is_equally_likely_for_shared(reject_above: int) -> None:
    chooser, draw = build_sampler("shared", FullBank(torch.arange(9) % 3, 2), 2), generator(3)
    chosen, anchors = [], torch.tensor([1, 1])
    with patch("graphkd.contrast.draws._REJECT_ABOVE", reject_above):
        for _ in range(1500):
            first, second = subsets(naive.table(chooser.select(anchors, draw), 9, 9, 18))
            assert first == second
            chosen.append(first)
    observed = frequencies(chosen, SUBSETS)
    assert 1e-3 < chi_square(observed, torch.full((15,), 1500 / 15), 14) < 1 - 1e-3


@pytest.mark.parametrize("reject_above", WAYS)
def test_every_subset_is_equally_likely_and_independent_for_explicit(reject_above: int) -> None:
    chooser, draw = build_sampler("explicit", FullBank(torch.arange(9) % 3, 2), 2), generator(4)
    with patch("graphkd.contrast.draws._REJECT_ABOVE", reject_above):
        chosen = subsets(naive.table(chooser.select(torch.ones(9000).long(), draw), 9, 9, 10**5))
    pairs = list(zip(chosen[::2], chosen[1::2], strict=True))
    observed = frequencies(pairs, list(itertools.product(SUBSETS, SUBSETS)))
    assert 1e-3 < chi_square(observed, torch.full((225,), 4500 / 225), 224) < 1 - 1e-3


@pytest.mark.parametrize("sampler", DRAWN)
def test_a_pool_below_k_is_drawn_with_replacement(sampler: str) -> None:
    labels, steps, count = torch.tensor([1, 1, 1, 1, 0, 0, 0]), 1000, 5
    chooser, draw = build_sampler(sampler, FullBank(labels, 2), count), generator(5)
    chosen = []
    for _ in range(steps):
        # class 2 has all seven rows to choose from, and so none twice
        of_one, of_two = naive.table(chooser.select(torch.tensor([1, 2]), draw), 7, 7, 14)
        assert of_two.max() == 1
        chosen.append(tuple(of_one[4:].int().tolist()))
    sequences = itertools.product(range(3), repeat=count)
    multinomial = Counter(tuple(sequence.count(row) for row in range(3)) for sequence in sequences)
    observed = frequencies(chosen, list(multinomial))
    expected = torch.tensor([times * steps / 3**count for times in multinomial.values()])
    assert 1e-3 < chi_square(observed, expected, len(multinomial) - 1) < 1 - 1e-3


@pytest.mark.parametrize("sampler", DRAWN)
def test_a_pool_of_exactly_k_is_taken_whole_beside_a_smaller_one(sampler: str) -> None:
    labels = torch.tensor([1, 1, 1, 1, 0, 0, 0])
    selection = build_sampler(sampler, FullBank(labels, 2), 4).select(torch.tensor([0, 1]), generator())
    of_zero, of_one = naive.table(selection, 7)
    assert of_zero.tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert of_one.sum() == 4


@pytest.mark.parametrize("times", [200, 40000])
def test_a_row_may_be_listed_any_number_of_times(times: int) -> None:
    listed = torch.zeros(2, times + 1, dtype=torch.int64)
    listed[:, -1] = 3
    table = naive.table(ExplicitSelection(listed, 5), 5)
    assert table.tolist() == [[times, 0, 0, 1, 0]] * 2


@pytest.mark.parametrize("sampler", DRAWN)
def test_large_banks_are_not_ordered_as_a_whole(sampler: str) -> None:
    labels = torch.arange(30000) % 100
    chooser = build_sampler(sampler, FullBank(labels, 2), 500)
    with (
        patch.object(torch, "randperm", side_effect=AssertionError),
        patch.object(Tensor, "topk", side_effect=AssertionError),
    ):
        table = naive.table(chooser.select(torch.tensor([0, 1, 50]), generator()), 30000, 10**4, 10**6)
    assert (table.sum(1) == 500).all()
    assert table.max() == 1


@pytest.mark.parametrize(
    ("sizes", "count", "most"),
    [((30, 50, 20), 25, 75), ((50000, 50000), 1000, 3000), ((90000, 10000), 1000, 16000)],
)
def test_shared_orders_no_more_rows_than_needed(sizes: tuple[int, ...], count: int, most: int) -> None:
    bank = FullBank(sizes_to_labels(*sizes), 2)
    selection = build_sampler("shared", bank, count).select(torch.tensor([0, 1]), generator())
    assert isinstance(selection, SharedSelection)
    assert len(selection.rows.unique()) == len(selection.rows) <= most
    table = naive.table(selection, sum(sizes), 1000, 2000)
    assert table.sum(1).tolist() == [count, count]


def test_tries_run_out_with_a_chance_below_1e_20() -> None:
    """Chernoff's bound on the sum of geometric variables, the numbers of tries for each hit."""

    def log10_chance(tries: int, chances: np.ndarray) -> float:
        rates = np.linspace(0, -np.log1p(-chances.min()), 2001)[1:-1, None]
        bounds = np.log(chances) + rates - np.log1p(-(1 - chances) * np.exp(rates))
        return float((bounds.sum(1) - rates[:, 0] * (tries + 1)).min() / np.log(10))

    for total in (5, 7, 9, 21, 41, 101, 1001, 20001):
        for drawn in {1, 2, total // 40, total // 4, (total - 1) // 2} - {0}:
            new = 1 - np.arange(drawn) / total
            repeats = float((1 / new - 1).sum())
            tries = with_spare(drawn, -total * math.log1p(-drawn / total) - drawn, 1 / new[-1])
            assert tries >= drawn + repeats
            assert drawn == 1 or log10_chance(tries, new) < -20
    for per_hit in (1.01, 1.5, 3.0, 100.0):
        for hits in (1, 2, 10, 1000):
            tries = with_spare(hits, hits * (per_hit - 1), per_hit)
            assert log10_chance(tries, np.full(hits, 1 / per_hit)) < -20


@pytest.mark.parametrize("sampler", DRAWN)
@pytest.mark.parametrize("bank", [FullBank(torch.arange(900) % 9, 2), FullBank(torch.arange(8) % 2, 2)])
def test_the_generator_decides(sampler: str, bank: FullBank) -> None:
    chooser, anchors, draw = build_sampler(sampler, bank, 20), torch.arange(2), generator(6)
    first, second = (naive.table(chooser.select(anchors, draw), bank.used) for _ in range(2))
    again = naive.table(chooser.select(anchors, generator(6)), bank.used)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    chooser.select(anchors, generator(7))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("sampler", [*DRAWN, "all"])
def test_a_queue_offers_what_it_holds_now(sampler: str) -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    bank = QueueBank(labels, 2, 5)
    chooser, anchors, draw = build_sampler(sampler, bank, 2), torch.tensor([0, 1]), generator(8)

    def chosen() -> Tensor:
        return naive.table(chooser.select(anchors, draw), 5)

    bank.update(torch.tensor([0, 3]), torch.randn(2, 2), 0.5)
    wanted = 1 if sampler == "all" else 2
    assert torch.equal(chosen(), torch.tensor([[0, wanted, 0, 0, 0], [wanted, 0, 0, 0, 0]]).double())
    # now rows 0..4 hold samples 6, 7, 1, 4, 5
    bank.update(torch.tensor([1, 4, 5]), torch.randn(3, 2), 0.5)
    bank.update(torch.tensor([6, 7]), torch.randn(2, 2), 0.5)
    assert bank.labels.tolist() == [2, 2, 0, 1, 1]
    table = chosen()
    assert table[0, 2] == 0
    assert not table[1, 3:].any()
    assert table.sum(1).tolist() == ([4, 3] if sampler == "all" else [2, 2])
    assert table.max() == 1


@pytest.mark.parametrize("sampler", [*DRAWN, "all", "all_weighted"])
def test_an_anchor_may_find_no_negative_in_a_queue(sampler: str) -> None:
    bank = QueueBank(torch.tensor([0, 0, 1]), 2, 4)
    chooser = build_sampler(sampler, bank, 3)
    bank.update(torch.tensor([0, 1]), torch.randn(2, 2), 0.5)
    selection = chooser.select(torch.tensor([0, 1]), generator())
    table = naive.table(selection, 4)
    assert not table[0].any()
    assert table[1].sum() == (2 if sampler == "all" else 3)
    assert torch.equal(selection.counts().double(), table.sum(1))


@pytest.mark.parametrize("sampler", DRAWN)
def test_every_row_of_a_queue_is_equally_likely(sampler: str) -> None:
    labels, steps, count = torch.arange(100) % 3, 600, 4
    bank, draw = QueueBank(labels, 2, 30), generator(9)
    for batch in torch.randperm(100, generator=draw)[:48].split(8):
        bank.update(batch, torch.randn(8, 2), 0.5)
    chooser, seen = build_sampler(sampler, bank, count), torch.zeros(1, 30, dtype=torch.float64)
    for _ in range(steps):
        seen += naive.table(chooser.select(torch.tensor([0]), draw), 30, 30, 30)
    assert_uniform(seen[0, bank.labels != 0], count)


def test_mistakes_are_named() -> None:
    bank = FullBank(torch.arange(4), 2)
    with pytest.raises(UserError, match=r"no sampler 'sharde'; did you mean 'shared'\? \(choices: all, "):
        build_sampler("sharde", bank, 2)
    with pytest.raises(UserError, match="number of negatives is 0"):
        build_sampler("shared", bank, 0)


@settings(max_examples=50, deadline=None)
@given(lines=st.integers(1, 3), length=st.integers(1, 40), most=st.integers(1, 60), seed=st.integers(0, 99))
def test_first_occurrences_by_table_and_by_sorting(lines: int, length: int, most: int, seed: int) -> None:
    draws = torch.randint(most, (lines, length), generator=generator(seed))
    expected = [[value not in line[:turn] for turn, value in enumerate(line)] for line in draws.tolist()]
    for sort_from in (0, most):
        with patch("graphkd.contrast.draws._SORT_FROM", sort_from):
            assert _first_occurrences(draws, most).tolist() == expected
