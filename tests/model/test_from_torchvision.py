"""torchvision's classifiers by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphkd import MODELS, UserError
from graphkd.engine.weights import load_weights, save_weights
from graphkd.model import Network, Shapes, Wrapped, output_shapes
from graphkd.model.complexity import complexity
from graphkd.run import parse

ROOT = Path(__file__).resolve().parents[2]
STAGES = {
    "resnet18": [(64, 32), (64, 16), (128, 8), (256, 4), (512, 2)],
    "resnet50": [(64, 32), (256, 16), (512, 8), (1024, 4), (2048, 2)],
    "mobilenet_v2": [(16, 32), (24, 16), (32, 8), (96, 4), (1280, 2)],
    "shufflenet_v2_x0_5": [(24, 32), (24, 16), (48, 8), (96, 4), (1024, 2)],
    "densenet121": [(64, 32), (256, 16), (512, 8), (1024, 4), (1024, 2)],
    "regnet_y_400mf": [(32, 32), (48, 16), (104, 8), (208, 4), (440, 2)],
    "squeezenet1_1": [(64, 31), (128, 15), (256, 7), (512, 3)],
    "googlenet": [(64, 32), (192, 16), (480, 8), (832, 4), (1024, 2)],
    "swin_t": [(96, 16), (192, 8), (384, 4), (768, 2)],
}
"""Channels and height of the maps of 64x64 images; as in the papers' tables, which are for 224x224."""


def build(model: str, **options: Any) -> Network:
    return MODELS.build(f"torchvision/{model}", **{"num_classes": 10, **options})


@pytest.mark.parametrize("name", STAGES)
def test_the_stages_are_found(name: str) -> None:
    network = build(name)
    shapes = output_shapes(network, in_channels=3, image_size=64)
    assert shapes.features == [(channels, size, size) for channels, size in STAGES[name]]
    assert shapes.num_classes == 10
    assert shapes.embedding == STAGES[name][-1][0]


def test_the_names_are_torchvisions_own() -> None:
    from torchvision.models import resnet18

    network, own = build("resnet18"), resnet18(num_classes=10)
    assert isinstance(network, Wrapped)
    assert [tap.part for tap in network._features] == ["relu", "layer1", "layer2", "layer3", "layer4"]
    own.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(network.eval()(images).logits, own.eval()(images))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "googlenet"])
def test_training_reaches_every_parameter(name: str) -> None:
    network = build(name, in_channels=1).train()
    output = network(torch.rand(3, 1, 64, 64))
    shown = [*output.features, output.embedding, output.logits]
    torch.stack([tensor.square().mean() for tensor in shown]).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_resnets_preactivations_are_the_sums_before_the_last_relu_of_each_stage() -> None:
    network = build("resnet18").eval()
    output = network(torch.rand(2, 3, 32, 32))
    assert output.preactivations is not None
    assert len(output.preactivations) == 5
    for preactivation, feature in zip(output.preactivations, output.features, strict=True):
        assert torch.equal(preactivation.relu(), feature)
        assert preactivation.min() < 0


def test_small_images_work() -> None:
    assert output_shapes(build("resnet18"), 3, 32).features[-1] == (512, 1, 1)


@pytest.mark.slow
def test_a_transformer_for_small_images() -> None:
    network = build("vit_b_32", image_size=64, features=["conv_proj", "encoder.layers.encoder_layer_11"])
    assert output_shapes(network, 3, 64) == Shapes([(768, 2, 2), (768, 2, 2)], 768, 10)


def test_inception_comes_without_auxiliary_classifiers() -> None:
    network = build("googlenet", in_channels=3)
    assert not [name for name in network.state_dict() if "aux" in name.lower()]


def test_weights_are_loaded_before_the_last_layer_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    pretrained = models.resnet18()
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", lambda self, **_: pretrained.state_dict())
    for weights in ("DEFAULT", "IMAGENET1K_V1"):
        state = build("resnet18", weights=weights).state_dict()
        for name, tensor in pretrained.state_dict().items():
            assert torch.equal(state[name], tensor) is not name.startswith("fc.")
        assert state["fc.weight"].shape == (10, 512)
    whole = build("resnet18", weights="DEFAULT", num_classes=1000).state_dict()
    assert all(torch.equal(whole[name], tensor) for name, tensor in pretrained.state_dict().items())


@pytest.mark.parametrize("in_channels", [1, 4])
def test_grey_images_give_the_same_for_any_number_of_channels(
    monkeypatch: pytest.MonkeyPatch, in_channels: int
) -> None:
    from torchvision import models

    pretrained = models.shufflenet_v2_x0_5().state_dict()
    monkeypatch.setattr(models.ShuffleNet_V2_X0_5_Weights, "get_state_dict", lambda self, **_: pretrained)
    options: dict[str, Any] = {"weights": "DEFAULT", "num_classes": 1000}
    networks = [build("shufflenet_v2_x0_5", in_channels=c, **options).eval() for c in (3, in_channels)]
    grey = torch.rand(2, 1, 64, 64)
    logits = [network(grey.repeat(1, c, 1, 1)).logits for network, c in zip(networks, (3, in_channels), strict=True)]
    assert torch.allclose(*logits, rtol=1e-4, atol=1e-6)


def test_a_download_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    def fail(self: Any, **_: Any) -> dict[str, Tensor]:
        raise OSError("no route to host")

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", fail)
    with pytest.raises(UserError, match=r"^torchvision model 'resnet18' cannot be built: OSError: no route to host$"):
        build("resnet18", weights="DEFAULT")


def test_weights_files_come_back(tmp_path: Path) -> None:
    first, second = build("shufflenet_v2_x0_5"), build("shufflenet_v2_x0_5")
    save_weights(first, tmp_path / "w.safetensors")
    load_weights(second, tmp_path / "w.safetensors")
    state = second.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())
    with pytest.raises(UserError, match=r"are for 10 classes, not 3: fc.weight \[10, 1024\] instead of \[3, 1024\]"):
        load_weights(build("shufflenet_v2_x0_5", num_classes=3), tmp_path / "w.safetensors")


def test_published_multiply_adds() -> None:
    from torchvision import models

    for name in ("resnet18", "shufflenet_v2_x0_5"):
        cost = complexity(build(name, num_classes=1000), in_channels=3, image_size=224)
        meta = models.get_model_weights(name)["DEFAULT"].meta
        assert cost.parameters == meta["num_params"]
        assert cost.multiply_adds / 1e9 == pytest.approx(meta["_ops"], abs=1e-3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet81", {}, r"^there is no torchvision model 'resnet81'; did you mean 'resnet18'\?"),
        ("fasterrcnn_resnet50_fpn", {}, "there is no torchvision model 'fasterrcnn_resnet50_fpn'"),
        (
            "resnet18",
            {"weights": "IMAGENET"},
            r"has no weights 'IMAGENET'; did you mean 'IMAGENET1K_V1'\? \(choices: DEFAULT, IMAGENET1K_V1\)$",
        ),
        ("resnet18", {"image_size": 32}, "'resnet18' takes images of many sizes; it has no option 'image_size'"),
        ("vit_b_32", {"image_size": 33}, "torchvision model 'vit_b_32' cannot be built: .*patch size"),
        ("vit_b_32", {"image_size": 0}, "image_size is 0"),
        ("resnet18", {"num_classes": 0}, "num_classes is 0"),
        ("resnet18", {"in_channels": 0}, "in_channels is 0"),
        ("resnet18", {"features": ["layer5"]}, "the module has no part 'layer5'; did you mean 'layer"),
        ("resnet18", {"depth": 3}, "model 'torchvision/resnet18' has no option 'depth'"),
    ],
)
def test_what_does_not_fit_is_told(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, **options)


@pytest.mark.parametrize("student", ["torchvision/resnet18", {"name": "torchvision/resnet18", "weights": "DEFAULT"}])
def test_a_config_names_it(tiny_config: Callable[..., dict[str, Any]], student: Any) -> None:
    spec = parse(tiny_config({"student": student}))
    expected = {"name": student} if isinstance(student, str) else student
    assert spec.model.identity == expected
    assert "model" not in spec.model.document
    with pytest.raises(UserError, match="student: 'model' is not an option; graphkd supplies it"):
        parse(tiny_config({"student": {**expected, "model": "resnet34"}}))


def test_every_family_is_known() -> None:
    assert MODELS.families() == ["timm", "torchvision"]
    assert not [name for name in MODELS.names() if "/" in name]
    assert issubclass(MODELS.factory("torchvision/resnet18"), nn.Module)
