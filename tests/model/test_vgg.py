from __future__ import annotations

from typing import Any

import pytest
import torch
from samples import normal
from torch import nn

from graphkd import MODELS, UserError
from graphkd.model import output_shapes
from graphkd.model.vgg import Vgg

TINY: dict[str, Any] = {"layers": (1, 2, 1, 1, 1), "widths": (2, 3, 4, 5, 6)}


@pytest.mark.parametrize("depth", [8, 11, 13, 16, 19])
def test_the_name_tells_the_depth(depth: int) -> None:
    model = MODELS.build(f"vgg{depth}", num_classes=10, widths=[2, 2, 2, 2, 2])
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    # Of the three linear layers that the name counts, small images leave one.
    assert len(layers) == depth - 2


@pytest.mark.parametrize(
    ("size", "sides"),
    [(8, [8, 4, 2, 1, 1]), (30, [30, 15, 7, 3, 3]), (32, [32, 16, 8, 4, 4]), (64, [64, 32, 16, 8, 4])],
)
def test_images_larger_than_32_pixels_are_pooled_before_the_last_block(size: int, sides: list[int]) -> None:
    shapes = output_shapes(Vgg(10, **TINY), in_channels=3, image_size=size)
    assert shapes.features == [(width, side, side) for width, side in zip(TINY["widths"], sides, strict=True)]
    assert shapes.embedding == 6


def test_pooling_takes_the_largest_values() -> None:
    model = Vgg(10, **TINY).eval()
    output = model(normal(0, 2, 3, 32, 32))
    halved = output.features[0].unflatten(3, (16, 2)).unflatten(2, (16, 2)).amax((3, 5))
    assert torch.equal(model.block1(halved), output.preactivations[1])
    assert torch.equal(model.block4(output.features[3]), output.preactivations[4])
    assert torch.allclose(output.embedding, output.features[4].mean((2, 3)))


def test_initialisation_is_normal_by_fan_out_and_small_in_the_head() -> None:
    torch.manual_seed(0)
    model = Vgg(100, layers=(1, 1, 1, 1, 1), widths=(32, 64, 64, 64, 64))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx((2 / (9 * module.out_channels)) ** 0.5, rel=0.1)
            assert module.bias is not None
            assert not module.bias.any()
    assert model.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not model.classifier.bias.any()


@pytest.mark.parametrize("size", [(4, 4), (7, 32), (32, 7)])
def test_images_that_pooling_would_leave_empty_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"images are {size[0]}x{size[1]} pixels"):
        Vgg(10, **TINY)(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"layers": [1, 1, 0, 1, 1]}, "layers is"), ({"layers": [1, 1]}, "'layers'"),
     ({"widths": [8, 8, 8, 8, 0]}, "widths is"), ({"width": 8}, "did you mean 'widths'")],
)  # fmt: skip
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MODELS.build("vgg8", **{"num_classes": 10, **options})


def test_number_of_blocks_is_checked_without_the_registry() -> None:
    with pytest.raises(UserError, match="layers is"):
        Vgg(num_classes=10, layers=(1, 1, 1))  # type: ignore[arg-type]
