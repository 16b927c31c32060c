"""timm's classifiers by name, where timm is installed."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from graphkd import MODELS, UserError
from graphkd.model import Network, Shapes, output_shapes


def build(model: str, **options: Any) -> Network:
    return MODELS.build(f"timm/{model}", **{"num_classes": 10, **options})


def test_without_timm_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"^model 'timm/resnet18' needs timm: python -m pip install timm$"):
        build("resnet18")


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm")


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet18", [(64, 32), (64, 16), (128, 8), (256, 4), (512, 2)]),
        ("convnext_atto", [(40, 16), (80, 8), (160, 4), (320, 2)]),
        ("mobilenetv3_small_050", [(16, 32), (8, 16), (16, 8), (24, 4), (288, 2)]),
    ],
)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_the_stages_are_found(name: str, stages: list[tuple[int, int]], in_channels: int) -> None:
    network = build(name, in_channels=in_channels)
    shapes = output_shapes(network, in_channels, image_size=64)
    assert shapes.features == [(channels, size, size) for channels, size in stages]
    assert shapes.num_classes == 10
    network.train()(torch.rand(2, in_channels, 64, 64)).logits.sum().backward()


@pytest.mark.usefixtures("timm")
def test_a_transformer_for_small_images() -> None:
    network = build("vit_tiny_patch16_224", image_size=32, features=["blocks.5", "blocks.11"])
    assert output_shapes(network, 3, 32) == Shapes([(192, 2, 2), (192, 2, 2)], 192, 10)


@pytest.mark.parametrize(
    ("weights", "asked"),
    [(None, ("resnet18", False)), ("DEFAULT", ("resnet18", True)), ("a1_in1k", ("resnet18.a1_in1k", True))],
)
def test_weights_are_asked_for_by_tag(
    timm: Any, monkeypatch: pytest.MonkeyPatch, weights: str | None, asked: tuple[str, bool]
) -> None:
    create, calls = timm.create_model, []

    def note(name: str, *, pretrained: bool, **options: Any) -> Any:
        calls.append((name, pretrained))
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", note)
    build("resnet18", weights=weights)
    assert calls == [asked]


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet81", {}, r"^there is no timm model 'resnet81'; did you mean 'resnet18'\?"),
        ("resnet18", {"weights": "nonsense"}, "'resnet18' cannot be built: RuntimeError: Invalid pretrained tag"),
        ("resnet18", {"image_size": 32}, "timm model 'resnet18' cannot be built: TypeError: .*'img_size'"),
        ("resnet18", {"num_classes": 0}, "num_classes is 0"),
        ("resnet18", {"in_channels": 0}, "in_channels is 0"),
        ("resnet18", {"image_size": 0}, "image_size is 0"),
    ],
)
def test_what_does_not_fit_is_told(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, **options)
