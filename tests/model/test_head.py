from __future__ import annotations

import pytest
from torch import Tensor, nn

from graphkd import MODELS, NetworkOutput, UserError, wrap
from graphkd.model import Network
from graphkd.model.head import head_tensors


@pytest.mark.parametrize("name", MODELS.names())
def test_the_zoos_heads_are_its_classifiers(name: str) -> None:
    network = MODELS.build(name, num_classes=7)
    names = head_tensors(network, 3, 32)
    state = network.state_dict()
    assert [len(state[tensor]) for tensor in names] == [7, 7]
    assert {tensor.rpartition(".")[2] for tensor in names} == {"weight", "bias"}


def test_a_wrapped_module_keeps_its_own_names() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5, bias=False))
    assert head_tensors(wrap(module), 3, 8) == ("3.weight",)
    convolution = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 5, 1), nn.Flatten())
    assert head_tensors(wrap(convolution), 3, 8) == ("1.weight", "1.bias")


def test_logits_of_no_layer_have_no_head() -> None:
    class Odd(Network):
        def forward(self, images: Tensor) -> NetworkOutput:
            pooled = images.mean((2, 3))
            return NetworkOutput(2 * pooled, [], pooled)

    with pytest.raises(UserError, match="not the output of a linear layer"):
        head_tensors(Odd(), 3, 8)
