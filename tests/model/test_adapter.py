"""Networks made of modules from outside."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import graphkd
from graphkd import MODELS, NetworkOutput, UserError, wrap
from graphkd.engine.weights import load_weights, save_weights
from graphkd.model import OwnInput, Shapes, Wrapped, adapt_input, output_shapes


class Inverted(nn.Module):
    """Widens at its input's resolution, then halves it; weighs the channels by a 1x1 map."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(width, 3 * width, 1)
        self.halve = nn.Conv2d(3 * width, out, 3, stride=2, padding=1)
        self.squeeze = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.halve(self.widen(x))
        return x * self.squeeze(x)


class Small(nn.Module):
    """A stem and two stages in one sequence, as many mobile networks are built."""

    def __init__(self, classes: int = 5, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.stages = nn.Sequential(Inverted(4, 6), nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU()), Inverted(6, 8))
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, classes)
        self.never = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.stages(self.relu(self.norm(self.stem(x)))))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class Tokens(nn.Module):
    """Two tokens that are no patches, then a row of patches of 8x8 pixels."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 8, 8)
        self.block = nn.Identity()
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.patches(x).flatten(2).movedim(1, 2)
        rows = self.block(torch.cat([torch.full_like(rows[:, :2], 9.0), rows], 1))
        return self.head(rows.mean(1))  # type: ignore[no-any-return]


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 4, 4)
        self.turned = nn.LayerNorm(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.turned(self.conv(x).movedim(1, -1))
        return self.head(x.mean((1, 2)))  # type: ignore[no-any-return]


class Returns(nn.Module):
    """Returns what a function makes of a pooled map; in training, if so asked, of another function."""

    def __init__(self, make: Callable[[Tensor], Any], in_training: Callable[[Tensor], Any] | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.make = make
        self.in_training = in_training or make

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x).mean((2, 3))
        return self.in_training(x) if self.training else self.make(x)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def parts(network: Wrapped) -> list[str]:
    """The parts that the feature maps are read from."""
    return [tap.part for tap in network._features]


def test_the_last_map_of_each_resolution_is_found_stem_first(images: Tensor) -> None:
    network = graphkd.wrap(Small())
    assert parts(network) == ["relu", "stages.1", "stages"]
    assert output_shapes(network, 3, 32) == Shapes([(4, 32, 32), (6, 16, 16), (8, 8, 8)], 8, 5)
    output = network(images)
    assert bool((output.features[0] >= 0).all())


def test_a_sequence_that_ends_its_resolution_is_looked_into() -> None:
    stages = [nn.Sequential(nn.Conv2d(n, n + 1, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)) for n in (3, 4, 5)]
    network = wrap(nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)))
    assert parts(network) == ["0.1", "1.1", "2.1", "2"]


def test_a_backbone_is_looked_into() -> None:
    class Backbone(Small):
        def forward(self, x: Tensor) -> Tensor:
            return self.stages(self.relu(self.norm(self.stem(x)))).mean((2, 3))  # type: ignore[no-any-return]

    network = wrap(nn.Sequential(Backbone(), nn.Linear(8, 5)))
    assert parts(network) == ["0.relu", "0.stages.1", "0.stages"]


@pytest.mark.parametrize("training", [False, True])
def test_the_embedding_is_what_the_last_layer_is_given(images: Tensor, training: bool) -> None:
    module = Small().train(training)
    network = wrap(module)
    output = network(images)
    assert torch.equal(output.logits, module.fc(output.embedding))
    if not training:
        assert torch.equal(output.logits, module(images))
        assert torch.equal(output.embedding, output.features[-1].mean((2, 3)))


def test_gradient_flows_from_every_feature(images: Tensor) -> None:
    network = wrap(Small()).eval()
    stem = network.module.get_parameter("stem.weight")
    output = network(images)
    for feature in (*output.features, output.embedding):
        (gradient,) = torch.autograd.grad(feature.square().sum(), stem, retain_graph=True)
        assert bool((gradient != 0).any())
    (expected,) = torch.autograd.grad(network.module(images).sum(), stem)
    assert torch.allclose(torch.autograd.grad(output.logits.sum(), stem)[0], expected)


@given(batch=st.integers(1, 4), height=st.integers(32, 50), width=st.integers(32, 50))
def test_any_batch_and_image_size_from_32_works(batch: int, height: int, width: int) -> None:
    network = wrap(Small()).eval()
    output = network(torch.zeros(batch, 3, height, width))
    sizes = [(height, width), (-(-height // 2), -(-width // 2)), (-(-height // 4), -(-width // 4))]
    assert [feature.shape for feature in output.features] == [
        (batch, channels, *size) for channels, size in zip((4, 6, 8), sizes, strict=True)
    ]
    assert output.embedding.shape == (batch, 8)


def test_features_are_what_is_named_in_the_order_given(images: Tensor) -> None:
    network = wrap(Small(), features=["stages.0.widen", "stem"], embedding="stages.2").eval()
    output = network(images)
    assert [feature.shape[1:] for feature in output.features] == [(12, 32, 32), (4, 32, 32)]
    assert torch.equal(output.embedding, wrap(network.module).eval()(images).embedding)


def test_there_may_be_no_features(images: Tensor) -> None:
    output = wrap(Small(), features=[])(images)
    assert output.features == []
    assert output.embedding.shape == (3, 8)


@pytest.mark.parametrize("size", [32, 48, 64])
def test_tokens_become_maps(size: int) -> None:
    module = Tokens()
    network = wrap(module, features=["patches", "block"])
    images = torch.rand(2, 3, size, size)
    output = network(images)
    assert torch.equal(output.features[0], module.patches(images))
    assert torch.equal(output.features[1], output.features[0])
    assert parts(wrap(module)) == ["patches"]
    with pytest.raises(UserError, match=r"the tokens of 'block' make maps for square images only, not for 32x40"):
        network(torch.rand(2, 3, 32, 40))


class Encoder(nn.Module):
    """A patch embedding and three blocks of tokens, as a vision transformer has them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 8, 8)
        block = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.blocks = nn.ModuleList(copy.deepcopy(block) for _ in range(3))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.patches(x).flatten(2).movedim(1, 2)
        rows = torch.cat([rows[:, :1], rows], 1)
        for block in self.blocks:
            rows = block(rows)
        return self.head(rows[:, 0])  # type: ignore[no-any-return]


def test_a_patch_embedding_is_no_last_map(images: Tensor) -> None:
    network = wrap(Encoder())
    assert output_shapes(network, 3, 32).features == []
    assert network.token_blocks == ("blocks.0", "blocks.1", "blocks.2")
    named = wrap(network.module, features=network.token_blocks).eval()
    before = named(images).features
    assert [feature.shape for feature in before] == [(3, 6, 4, 4)] * 3
    with torch.no_grad():
        for parameter in named.module.get_submodule("blocks").parameters():
            parameter.normal_()
    assert not torch.allclose(named(images).features[-1], before[-1])
    assert wrap(Small()).token_blocks == ()


class Functional(nn.Module):
    """Two maps, the second of which comes from a function that is given."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.conv = nn.Conv2d(4, 6, 3, 2, 1)
        self.norm = nn.BatchNorm2d(6)
        self.shown = nn.Identity()
        self.function = function
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(self.stem(x)))
        return self.fc(self.shown(self.function(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_preactivations_are_what_the_last_activation_is_given(images: Tensor, inplace: bool, training: bool) -> None:
    module = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace)),
        nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU6(inplace), nn.Dropout(0.0)),
        nn.Conv2d(6, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).train(training)  # fmt: skip
    expected = copy.deepcopy(module)(images)
    output = wrap(module)(images)
    assert output.preactivations is not None
    stem, inner, linear = output.preactivations
    assert torch.equal(output.logits, expected)
    assert torch.equal(stem.relu(), output.features[0])
    assert torch.equal(inner.clamp(0, 6), output.features[1])
    assert torch.equal(linear, output.features[2])
    assert min(stem.min(), inner.min()) < 0
    assert all(bool((g != 0).any()) for g in torch.autograd.grad(inner.sum(), module[1][1].bias))


@pytest.mark.parametrize(
    "function",
    [
        F.relu,
        lambda x: F.relu(x, inplace=True),
        lambda x: torch.cat([F.relu(x[:, :3]), F.relu(x[:, 3:])], 1),
        lambda x: F.max_pool2d(F.relu(x), 2),
    ],
)
def test_no_preactivations_are_made_up(images: Tensor, function: Callable[[Tensor], Tensor]) -> None:
    output = wrap(Functional(function))(images)
    assert len(output.features) >= 2
    assert output.preactivations is None


def test_maps_with_channels_last_are_turned(images: Tensor) -> None:
    module = ChannelsLast()
    network = wrap(module, embedding="turned")
    output = network(images)
    assert parts(network) == ["turned"]
    assert output.features[0].shape == (3, 6, 8, 8)
    assert torch.allclose(module.head(output.features[0].mean((2, 3))), output.logits)
    assert torch.allclose(module.head(output.embedding), output.logits)


def test_a_network_output_passes_as_it_is(images: Tensor) -> None:
    inner = MODELS.build("resnet8", num_classes=7, widths=(2, 2, 4, 4)).eval()
    network = wrap(inner, num_classes=3).eval()
    output, expected = network(images), inner(images)
    assert isinstance(output, NetworkOutput)
    assert output.logits.shape == (3, 3)
    for shown, own in ((output.features, expected.features), (output.preactivations, expected.preactivations)):
        assert shown is not None
        assert own is not None
        assert all(torch.equal(one, other) for one, other in zip(shown, own, strict=True))
    with pytest.raises(UserError, match="it shows its own features, and none can be named"):
        wrap(inner, features=["layer1"])


def test_a_part_that_is_used_again_counts_where_it_is_used_last(images: Tensor) -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(3, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.conv(x))
            x = self.relu(F.max_pool2d(self.conv(x), 2))
            return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]

    network = wrap(Again())
    output = network(images)
    assert parts(network) == ["conv", "relu"]
    assert [feature.shape[-1] for feature in output.features] == [32, 16]


def test_the_last_layer_is_replaced_for_other_classes(images: Tensor) -> None:
    module = Small()
    kept = module.stem.weight.clone()
    network = wrap(module, num_classes=9)
    assert network(images).logits.shape == (3, 9)
    assert torch.equal(module.stem.weight, kept)
    assert isinstance(module.fc, nn.Linear)
    assert module.fc.out_features == 9
    same = Small()
    head = same.fc
    assert wrap(same, num_classes=5).module.get_submodule("fc") is head


def test_a_convolution_may_give_the_logits(images: Tensor) -> None:
    head = nn.Sequential(nn.Dropout(), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = wrap(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), head), num_classes=7).eval()
    output = network(images)
    assert parts(network) == ["0"]
    assert output.logits.shape == (3, 7)
    assert torch.equal(output.embedding, output.features[0].mean((2, 3)))


def test_without_a_last_layer_the_pooled_last_map_is_the_embedding(images: Tensor) -> None:
    network = wrap(Returns(lambda x: F.normalize(x)))
    output = network(images)
    assert torch.equal(output.embedding, output.features[-1].mean((2, 3)))
    with pytest.raises(UserError, match="has no last layer that could be replaced for num_classes=7"):
        wrap(Returns(lambda x: F.normalize(x)), num_classes=7)


def test_modules_for_small_images_are_run_on_such() -> None:
    flat = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 32 * 32, 5))
    assert output_shapes(wrap(flat), 3, 32) == Shapes([(2, 32, 32)], 2048, 5)
    tiny = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 8 * 8, 5))
    with pytest.raises(UserError, match=r"does not run on images \[1, 1, 64, 64\].*give an example of the images"):
        wrap(tiny)
    network = wrap(tiny, example=torch.zeros(2, 1, 8, 8))
    assert output_shapes(network, 1, 8) == Shapes([(2, 8, 8)], 128, 5)
    vectors = wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Linear(6, 5)), example=torch.zeros(2, 1, 8, 8))
    assert output_shapes(vectors, 1, 8) == Shapes([], 6, 5)


def test_wrapping_leaves_no_trace() -> None:
    module = Small().train()
    module.norm.eval()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    generator = torch.get_rng_state()
    wrap(module)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert (module.training, module.stem.training, module.norm.training) == (True, True, False)


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in module.modules())


def test_nothing_of_a_forward_pass_stays(images: Tensor) -> None:
    network = wrap(Small())
    output = network(images)
    kept = weakref.ref(output.features[0])
    del output
    assert kept() is None
    assert hooks(network) == 0
    with pytest.raises(RuntimeError):
        network(torch.rand(3, 2, 32, 32))
    assert hooks(network) == 0


def test_a_copy_is_a_network_of_its_own(images: Tensor) -> None:
    network = wrap(Small()).eval()
    expected = network(images)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    output = copied(images)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.features[1], expected.features[1])
    assert not network(images).features[1].any()


def test_modes_pass_on(images: Tensor) -> None:
    module = Small()
    network = wrap(module)
    assert network.eval().module.training is module.norm.training is False
    before = module.norm.running_mean.clone()  # type: ignore[union-attr]
    network(images)
    assert torch.equal(module.norm.running_mean, before)  # type: ignore[arg-type]
    network.train()(images)
    assert not torch.equal(module.norm.running_mean, before)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_are_saved_under_the_modules_own_names(images: Tensor, tmp_path: Path, suffix: str) -> None:
    module = Small()
    network, path = wrap(module), tmp_path / f"w.{suffix}"
    assert list(network.state_dict()) == list(module.state_dict())
    if suffix == "safetensors":
        save_weights(network, path)
    else:
        torch.save({"model": module.state_dict()}, path)
    loaded = wrap(Small())
    load_weights(loaded, path)
    assert torch.equal(loaded.eval()(images).logits, network.eval()(images).logits)
    save_weights(wrap(Small(4)), tmp_path / "4.safetensors")
    with pytest.raises(UserError, match=r"4 classes, not 5: fc.weight \[4, 8\] instead of \[5, 8\]"):
        load_weights(loaded, tmp_path / "4.safetensors")


def test_the_state_of_a_module_around_it_loads() -> None:
    first, second = (nn.Sequential(nn.Linear(2, 2), wrap(Small())) for _ in range(2))
    assert "1.stem.weight" in first.state_dict()
    second.load_state_dict(first.state_dict())
    state = second.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        second.load_state_dict({name: tensor for name, tensor in first.state_dict().items() if "stem" not in name})


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (Small(), {"features": ["stags.0"]}, r"the module has no part 'stags.0'; did you mean 'stages.0'\?"),
        (Small(), {"features": ["never"]}, "part 'never' of the module is not run in its forward pass"),
        (Small(), {"features": ["fc"]}, r"part 'fc' of the module returns \[1, 5\], which is no map and no sequence"),
        (Small(), {"embedding": "embed"}, "the module has no part 'embed'"),
        (Tokens(), {"embedding": "block"}, r"returns \[1, 66, 6\], which is no vector and no map"),
        (Small(), {"num_classes": 0}, "num_classes is 0, but must be at least 1"),
        (Small(), {"example": torch.zeros(1, 3, 8, 9)}, r"the example is \[1, 3, 8, 9\], but must be square images"),
        (Small(), {"example": torch.zeros(3, 8, 8)}, r"the example is \[3, 8, 8\], but must be square images"),
        (Small(), {"example": torch.zeros(1, 1, 8, 8)}, r"does not run on images \[1, 1, 8, 8\] \(RuntimeError: .*\)$"),
        (Returns(lambda x: (x, x)), {}, "returns a tuple, but must return logits alone; build it without auxiliary"),
        (Returns(lambda x: {"out": x}), {}, "returns a dict, but must return logits alone"),
        (Returns(lambda x: x[:, :, None]), {}, r"returns \[1, 4, 1\], but must return logits \[B, classes\]"),
        (nn.Flatten(), {}, "has no last linear layer and no map; name the part for the embedding"),
    ],
)
def test_what_does_not_fit_is_told(module: nn.Module, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        wrap(module, **options)
    assert "\n" not in str(caught.value)


def test_auxiliary_outputs_in_training_are_told(images: Tensor) -> None:
    network = wrap(Returns(lambda x: x, lambda x: (x, x)))
    assert network.eval()(images).logits.shape == (3, 4)
    with pytest.raises(UserError, match="returns a tuple, but must return logits alone"):
        network.train()(images)


def test_a_part_that_is_left_out_in_training_is_told(images: Tensor) -> None:
    class Skips(Small):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x) if self.training else self.norm(self.stem(x))
            return self.fc(self.stages(x).mean((2, 3)))  # type: ignore[no-any-return]

    with pytest.raises(UserError, match="the module has not run its parts norm, whose features it is to show"):
        wrap(Skips())(images)


# Images of its own


def test_a_network_sees_images_of_its_own_size_and_normalisation() -> None:
    images = torch.rand(2, 3, 8, 8)
    data, own = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)), ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))

    def normalised(pixels: Tensor, by: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
        mean, std = (torch.tensor(row)[:, None, None] for row in by)
        return (pixels - mean) / std

    plain = wrap(Small().eval(), example=images)
    adapted = copy.deepcopy(plain)
    adapt_input(adapted, OwnInput(16, *own), *data)
    resized = F.interpolate(normalised(images, own), (16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(adapted(normalised(images, data)).logits, plain(resized).logits)
    torch.testing.assert_close(copy.deepcopy(adapted)(normalised(images, data)).logits, plain(resized).logits)
    assert adapted.state_dict().keys() == plain.state_dict().keys()
    assert output_shapes(adapted, 3, 8) == output_shapes(plain, 3, 16)
    only_size = copy.deepcopy(plain)
    adapt_input(only_size, OwnInput(16))
    torch.testing.assert_close(
        only_size(images).logits, plain(F.interpolate(images, (16, 16), mode="bilinear", antialias=True)).logits
    )


def test_what_is_no_input_is_refused() -> None:
    network = wrap(Small().eval())
    for own, data, message in (
        (OwnInput(0), (None, None), "input.size is 0"),
        (OwnInput(mean=(0.5,)), (None, None), "need data that says"),
        (OwnInput(mean=(0.5,)), ((0.1, 0.2), (0.3, 0.4)), "1 mean and 2 stds, but the images have 2"),
        (OwnInput(std=(0.5, 0.0)), ((0.1, 0.2), (0.3, 0.4)), "above 0"),
    ):
        with pytest.raises(UserError, match=message):
            adapt_input(network, own, *data)
