from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from graphkd import MODELS
from graphkd.model.complexity import Complexity, complexity


def test_multiply_adds_are_those_of_the_formula() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16, 5))
    expected = Complexity(8 * 27 + 128 * 5 + 5, 8 * 27 * 16 + 128 * 5)
    assert complexity(network, in_channels=3, image_size=8) == expected


def test_groups_and_frozen_parameters_count() -> None:
    network = nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False).requires_grad_(False)
    assert complexity(network, in_channels=4, image_size=8) == Complexity(8 * 2 * 9, 8 * 2 * 9 * 64)


@pytest.mark.parametrize("frozen", [False, True])
def test_attention_counts(frozen: bool) -> None:
    tokens, dim = 16, 8

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(dim, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(2).movedim(1, 2)
            attended: torch.Tensor = self.attention(x, x, x, need_weights=False)[0]
            return attended

    network = Attention().requires_grad_(not frozen)
    expected = 4 * tokens * dim * dim + 2 * tokens * tokens * dim
    assert complexity(network, in_channels=dim, image_size=4).multiply_adds == expected


@pytest.mark.parametrize(("name", "millions"), [("resnet20", 40.8), ("resnet56", 125.7), ("resnet110", 253.1)])
def test_known_figures(name: str, millions: float) -> None:
    """Multiply-adds as often published for these networks, with projection shortcuts and 100 classes."""
    cost = complexity(MODELS.build(name, num_classes=100), in_channels=3, image_size=32)
    assert cost.multiply_adds / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.slow  # the counter loads torch._dynamo
@pytest.mark.parametrize("name", ["MobileNetV2", "ShuffleV1", "resnet8x4", "vgg8", "wrn_16_2"])
def test_it_agrees_with_torchs_own_counter(name: str) -> None:
    network = MODELS.build(name, num_classes=100).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    assert 2 * complexity(network, in_channels=3, image_size=32).multiply_adds == counter.get_total_flops()


def test_counting_leaves_no_trace() -> None:
    network = MODELS.build("resnet8", num_classes=10).train()
    network.get_submodule("bn1").eval()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.get_rng_state()
    complexity(network, in_channels=3, image_size=32)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert (network.training, network.get_submodule("bn1").training) == (True, False)
    assert all(parameter.grad is None for parameter in network.parameters())
