"""Find the layer that makes the logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from graphkd.errors import UserError
from graphkd.model.base import Network, forward_hooks, trial_output


def head_tensors(network: Network, in_channels: int, image_size: int) -> tuple[str, ...]:
    """Return the names, in the network's state dict, of the tensors of its last layer, which depends on the classes.

    Args:
        network: Stays as it is.
        in_channels: Channels of its images.
        image_size: Height and width of its images, in pixels.

    Raises:
        UserError: It does not run on such images, or its logits are not the output of a linear layer or convolution.
    """
    outputs: list[tuple[nn.Module, Tensor]] = []  # kept, so that no memory is used again

    def note(part: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs.append((part, output))

    layers = (part for part in network.modules() if isinstance(part, (nn.Linear, nn.Conv2d)))
    with forward_hooks((part, note) for part in layers):
        logits = trial_output(network, in_channels, image_size).logits
    head = next((part for part, output in reversed(outputs) if output.data_ptr() == logits.data_ptr()), None)
    if head is None:
        raise UserError("the network's logits are not the output of a linear layer, so there is no head to drop")
    own = {id(tensor) for tensor in head.parameters()}
    return tuple(name for name, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in own)
