from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import normal
from torch import nn

from graphkd import UserError
from graphkd.objective.maps import ConvRegressor, Shape, check_same_count, pooled_to_smaller


def shapes(count: int) -> list[Shape]:
    return [(4, 8, 8)] * count


def test_equal_counts_pass() -> None:
    check_same_count("at", shapes(4), shapes(4))


@pytest.mark.parametrize(("student", "teacher"), [(4, 5), (5, 4), (1, 1), (1, 3)])
def test_counts_that_differ_or_are_nothing_are_named(student: int, teacher: int) -> None:
    message = f"objective 'at'.* the student has {student - 1} and the teacher {teacher - 1}"
    with pytest.raises(UserError, match=message):
        check_same_count("at", shapes(student), shapes(teacher))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_the_larger_map_is_averaged_block_by_block(
    height: int, width: int, down: int, across: int, student_is_larger: bool
) -> None:
    small, large = normal(0, 2, 3, height, width), normal(1, 2, 5, down * height, across * width)
    first, second = pooled_to_smaller(large, small) if student_is_larger else pooled_to_smaller(small, large)
    kept, pooled = (second, first) if student_is_larger else (first, second)
    assert kept is small
    assert pooled.shape == (2, 5, height, width)
    for row in range(height):
        for column in range(width):
            block = large[:, :, row * down : (row + 1) * down, column * across : (column + 1) * across]
            torch.testing.assert_close(pooled[:, :, row, column], block.mean((2, 3)))


def test_each_side_is_pooled_where_it_is_larger() -> None:
    tall, wide = pooled_to_smaller(normal(0, 2, 3, 8, 2), normal(1, 2, 3, 4, 4))
    assert tall.shape == wide.shape == (2, 3, 4, 2)


@pytest.mark.parametrize(
    ("size", "target", "kind", "kernel", "stride"),
    [
        ((8, 8), (8, 8), nn.Conv2d, (1, 1), (1, 1)),
        ((8, 6), (4, 3), nn.Conv2d, (3, 3), (2, 2)),
        ((4, 3), (8, 6), nn.ConvTranspose2d, (4, 4), (2, 2)),
        ((8, 7), (5, 7), nn.Conv2d, (4, 1), (1, 1)),
        ((8, 4), (4, 4), nn.Conv2d, (5, 1), (1, 1)),
    ],
)
def test_the_convolution_follows_from_the_sizes(
    size: tuple[int, int], target: tuple[int, int], kind: type, kernel: tuple[int, int], stride: tuple[int, int]
) -> None:
    regressor = ConvRegressor((3, *size), (5, *target))
    assert isinstance(regressor.conv, kind)
    assert (regressor.conv.kernel_size, regressor.conv.stride) == (kernel, stride)
    assert regressor(normal(0, 2, 3, *size)).shape == (2, 5, *target)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_a_regressor_gives_the_teachers_shape_or_says_why_not(h: int, w: int, target_h: int, target_w: int) -> None:
    possible = (h >= target_h and w >= target_w) or (2 * h == target_h and 2 * w == target_w)
    if possible:
        assert ConvRegressor((3, h, w), (5, target_h, target_w))(normal(0, 2, 3, h, w)).shape == (
            2, 5, target_h, target_w,
        )  # fmt: skip
    else:
        with pytest.raises(UserError, match=rf"\(3, {h}, {w}\) .*\(5, {target_h}, {target_w}\)"):
            ConvRegressor((3, h, w), (5, target_h, target_w))


def test_the_error_says_whose_regressor_it_is() -> None:
    with pytest.raises(UserError, match="objective 'ft': no convolution"):
        ConvRegressor((3, 2, 2), (5, 8, 8), what="objective 'ft'")


def test_the_output_is_normalised_and_the_relu_comes_last() -> None:
    x = 7 * normal(0, 6, 3, 4, 4) + 2
    regressor = ConvRegressor((3, 4, 4), (5, 4, 4), use_relu=False)
    plain = regressor(x)
    torch.testing.assert_close(plain.mean((0, 2, 3)), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(plain.var((0, 2, 3), correction=0), torch.ones(5), atol=1e-4, rtol=0)
    with_relu = ConvRegressor((3, 4, 4), (5, 4, 4))
    with_relu.load_state_dict(regressor.state_dict())
    torch.testing.assert_close(with_relu(x), plain.clamp(min=0))


def test_a_single_value_per_channel_uses_the_running_statistics() -> None:
    regressor, x = ConvRegressor((3, 1, 1), (5, 1, 1)), normal(0, 1, 3, 1, 1)
    before = regressor.norm.running_mean.clone()  # type: ignore[union-attr]
    y = regressor(x)
    torch.testing.assert_close(y, regressor.eval()(x))
    assert torch.equal(regressor.norm.running_mean, before)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_computes_in_float32_whatever_comes_in(dtype: torch.dtype) -> None:
    regressor, x = ConvRegressor((3, 4, 4), (5, 2, 2)), normal(0, 6, 3, 4, 4, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = regressor(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, regressor(x.float()))
