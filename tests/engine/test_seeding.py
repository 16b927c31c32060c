from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphkd.engine.seeding import derive, generator, initialising, seed_default

SEEDS = st.integers(0, 2**31)


def test_streams_are_the_same_in_every_version() -> None:
    """Who changes these numbers changes what every user's seed means."""
    assert derive(0, "order", 0) == 3955691223199900983
    assert derive(1, "augmentation", 5) == 6544907109783782479


@given(SEEDS, SEEDS)
def test_streams_differ_by_seed_and_by_name(first: int, second: int) -> None:
    names = [("order",), ("augmentation",), ("order", 0), ("order", 1)]
    seeds = {first, second}
    assert len({derive(seed, *name) for seed in seeds for name in names}) == len(seeds) * len(names)
    assert all(0 <= derive(seed, *name) < 2**63 for seed in seeds for name in names)


def test_a_generator_repeats_its_stream() -> None:
    first, again, other = (
        torch.rand(5, generator=generator(3, name)) for name in ("negatives", "negatives", "builder")
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_initialising_depends_on_seed_and_name_alone() -> None:
    def draw(seed: int, name: str) -> torch.Tensor:
        torch.rand(seed + 1)  # whatever was drawn before
        with initialising(seed, name):
            return torch.rand(3)

    assert torch.equal(draw(0, "student_init"), draw(0, "student_init"))
    assert not torch.equal(draw(0, "student_init"), draw(1, "student_init"))
    assert not torch.equal(draw(0, "student_init"), draw(0, "objective_init"))


def test_initialising_leaves_torchs_own_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    with initialising(0, "student_init"):
        torch.rand(7)
    assert torch.equal(torch.get_rng_state(), before)


def test_initialising_leaves_it_so_after_an_error_too() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), initialising(0, "student_init"):
        torch.rand(7, -1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_default_generator_is_seeded_as_torch_seeds_it() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2**62 + 5)
        expected = torch.randn(3)
        seed_default(2**62 + 5, torch.device("cpu"))
        assert torch.equal(torch.randn(3), expected)
