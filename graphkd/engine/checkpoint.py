"""Weights of networks as files."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from graphkd.errors import UserError, check, one_line
from graphkd.model import Network
from graphkd.report.files import write_atomically


def save_weights(network: Network, path: Path) -> None:
    """Writes a network's weights as safetensors, whole or not at all; contiguous, on the CPU, under plain names."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(path, safetensors.torch.save(state))


def load_weights(network: Network, path: Path) -> None:
    """Loads weights into a network: this project's safetensors or a `.pth` file of the benchmark.

    Args:
        network: The network to fill, in place.
        path: Safetensors, or what `torch.load(weights_only=True)` reads: a state dict, alone or under "model".

    Raises:
        UserError: There is no such file, it cannot be read safely, or it does not fit; the message says what differs.
    """
    state = _read(path)
    expected = network.state_dict()
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    reshaped = [
        f"{name} {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    differences = [
        f"{len(names)} {what} ({_some(names)})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    check(not differences, f"the weights in {path} are not this network's: tensors {', '.join(differences)}")
    network.load_state_dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    check(path.is_file(), f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how a file was pickled, which is not the user's business
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is refused: it is no weights file, or holds more than tensors") from error
    except Exception as error:  # on bytes that are no checkpoint, torch raises whatever its reader stumbles over
        raise UserError(f"{path} cannot be read as a weights file: {one_line(error)}") from error
    return _state_dict(content, path)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    is_state = isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())
    check(is_state, f"{path} holds no state dict (tensors by name, alone or under 'model')")
    # Data-parallel training in the benchmark left a prefix on every name.
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
