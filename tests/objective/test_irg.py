from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import batch, normal
from torch import Tensor

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError
from graphkd.objective.base import Setting
from graphkd.objective.irg import distances, transformation

STUDENT = [(4, 8, 8), (4, 4, 4), (8, 2, 2)]
TEACHER = [(6, 8, 8), (6, 4, 6), (12, 2, 3)]


def output(shapes: list[tuple[int, int, int]], samples: int, classes: int, width: int, seed: int) -> NetworkOutput:
    maps = [normal(seed + turn, samples, *shape) for turn, shape in enumerate(shapes)]
    return NetworkOutput(normal(seed + 8, samples, classes), maps, normal(seed + 9, samples, width))


def some_batch(samples: int, classes: int, seed: int) -> DistillationBatch:
    indices = torch.arange(samples)
    student, teacher = output(STUDENT, samples, classes, 5, seed), output(TEACHER, samples, classes, 7, seed + 10)
    return DistillationBatch(student, teacher, labels=indices % classes, indices=indices)


def irg(some: DistillationBatch) -> dict[str, Tensor]:
    terms = OBJECTIVES.build("irg")(some)
    assert list(terms) == ["vertices", "edges", "transformation"]
    return terms


def mean_square(one: list[float], other: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) / len(one)


def over_largest(values: list[float]) -> list[float]:
    return [value / max(values) if max(values) > 0 else 0.0 for value in values]


def naive_distances(rows: Tensor) -> list[float]:
    rows = rows.double().flatten(1)
    return over_largest([(one - other).square().sum().item() for one in rows for other in rows])


def naive_transformation(earlier: Tensor, later: Tensor) -> list[float]:
    """The earlier map is twice as high and wide as the later one, which has twice the channels."""
    found = []
    for before, after in zip(earlier.double(), later.double(), strict=True):
        total = 0.0
        for channel in range(before.shape[0]):
            for row in range(after.shape[1]):
                for column in range(after.shape[2]):
                    window = before[channel, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                    pair = after[2 * channel : 2 * channel + 2, row, column]
                    total += (window.mean() - pair.mean()).square().item()
        found.append(total)
    return over_largest(found)


def naive(student: NetworkOutput, teacher: NetworkOutput) -> dict[str, float]:
    """The three terms, pair by pair of samples and position by position."""
    spaces = [[side.embedding, *side.features[-2:]] for side in (student, teacher)]
    edges = [mean_square(naive_distances(s), naive_distances(t)) for s, t in zip(*spaces, strict=True)]
    changes = [naive_transformation(*side.features[-2:]) for side in (student, teacher)]
    return {
        "vertices": mean_square(student.logits.double().flatten().tolist(), teacher.logits.double().flatten().tolist()),
        "edges": sum(edges) / 3,
        "transformation": mean_square(*changes),
    }


@settings(max_examples=20)
@given(st.sampled_from([1, 2, 3, 7, 9]), st.sampled_from([10, 100]), st.integers(0, 99))
def test_equals_the_formula(samples: int, classes: int, seed: int) -> None:
    some = some_batch(samples, classes, seed)
    assert some.teacher is not None
    terms = {name: term.item() for name, term in irg(some).items()}
    assert terms == pytest.approx(naive(some.student, some.teacher), rel=1e-4, abs=1e-7)


def test_one_sample_alone_has_vertices_only() -> None:
    terms = irg(some_batch(1, 10, 0))
    assert terms["vertices"] > 0.1
    assert terms["edges"] == terms["transformation"] == 0


@pytest.mark.parametrize("offset", [0.0, 0.1, 1e3])
def test_equal_samples_have_no_distance_and_no_gradient(offset: float) -> None:
    rows = (offset + torch.zeros(7, 30)).requires_grad_()
    found = distances(rows)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert not found.any()
    assert rows.grad is not None
    assert not rows.grad.any()


def test_some_equal_samples_among_others_count_as_the_formula_says() -> None:
    rows = 100 + normal(0, 9, 40)
    rows[4] = rows[7] = rows[1]
    rows.requires_grad_()
    found = distances(rows)
    assert found.flatten().tolist() == pytest.approx(naive_distances(rows.detach()), abs=1e-4)
    assert found[4, 7] == found[1, 4] == 0
    found[4, 7].backward(retain_graph=True)  # type: ignore[no-untyped-call]
    found.square().sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


def test_distances_do_not_see_scale_shift_and_rotation() -> None:
    rows = normal(0, 7, 5)
    rotation = torch.linalg.qr(normal(1, 5, 5)).Q
    torch.testing.assert_close(distances(3 * rows @ rotation + 2), distances(rows), rtol=1e-4, atol=1e-5)
    assert distances(rows).max() == 1


@pytest.mark.parametrize(("channels", "others"), [(4, 4), (4, 8), (8, 4), (6, 15), (3, 7)])
def test_transformation_compares_maps_of_any_channels(channels: int, others: int) -> None:
    """The maps are constant, so that no pooling changes them."""
    values = torch.tensor([1.0, 2.0, 3.0])[:, None, None, None]
    earlier, later = values.expand(-1, channels, 4, 4), torch.zeros(3, others, 2, 2)
    torch.testing.assert_close(transformation(earlier, later), torch.tensor([1 / 9, 4 / 9, 1.0]))
    torch.testing.assert_close(transformation(later, earlier), torch.tensor([1 / 9, 4 / 9, 1.0]))


def test_maps_that_a_layer_does_not_change_have_no_transformation() -> None:
    map_ = normal(0, 5, 4, 3, 3).requires_grad_()
    found = transformation(map_, map_.detach().clone())
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert not found.any()
    assert map_.grad is not None
    assert not map_.grad.any()


def test_only_the_last_two_maps_are_looked_at() -> None:
    some = batch(6)
    torch.stack(list(irg(some).values())).sum().backward()
    assert [feature.grad is not None for feature in some.student.features] == [False, False, True, True]


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_network_with_too_few_maps_is_named(side: str) -> None:
    some = batch(4)
    output = getattr(some, side)
    without = dataclasses.replace(some, **{side: output._replace(features=output.features[:1])})
    with pytest.raises(UserError, match=f"'irg': it needs two feature maps, but the {side}'s network shows 1"):
        irg(without)


@pytest.mark.parametrize(("size", "nothing"), [(1, ["edges", "transformation"]), (2, ["edges"]), (3, [])])
def test_what_teaches_nothing_in_small_batches_is_said_and_is_so(size: int, nothing: list[str]) -> None:
    some = batch(size)
    (note,) = OBJECTIVES.build("irg").notes(Setting(torch.arange(50) % 5, 5, size)) or [""]
    assert [name for name in ("vertices", "edges", "transformation") if f"`{name}`" in note] == nothing
    inputs = [some.student.logits, some.student.embedding, *some.student.features[-2:]]
    for name, term in irg(some).items():
        found = torch.autograd.grad(term, inputs, allow_unused=True, retain_graph=True)
        largest = max(float(each.abs().max()) for each in found if each is not None)
        assert (largest < 1e-6) == (name in nothing)
