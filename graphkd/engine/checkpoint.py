"""Weights of networks as files."""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from graphkd.errors import UserError, check, one_line
from graphkd.model import Network
from graphkd.report.files import write_atomically

CHECKSUM = "sha256"
"""Under what the header of our own files has the checksum of names and tensors."""
_SMALL = 1 << 30
_LARGEST_RATIO = 16


def save_weights(network: Network, path: Path) -> None:
    """Writes a network's weights as safetensors, whole or not at all; contiguous, on the CPU, under plain names.

    The file's header has their checksum.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(path, safetensors.torch.save(state, {CHECKSUM: _checksum(state)}))


def load_weights(network: Network, path: Path) -> None:
    """Loads weights into a network: this project's safetensors or a `.pth` file of the benchmark.

    Args:
        network: The network to fill, in place.
        path: Safetensors, or what `torch.load(weights_only=True)` reads: a state dict, alone or under "model" or
            "state_dict".

    Raises:
        UserError: There is no such file, it cannot be read safely, was altered, is far too large for the network, or
            does not fit; the message says what differs.
    """
    expected = network.state_dict()
    state = _read(path, sum(tensor.nbytes for tensor in expected.values()))
    if not state.keys() & expected.keys():
        # Data-parallel training in the benchmark left a prefix on every name.
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    reshaped = [name for name, tensor in expected.items() if name in state and state[name].shape != tensor.shape]
    shapes = [f"{name} {list(state[name].shape)} instead of {list(expected[name].shape)}" for name in reshaped]
    if reshaped and not missing and not unexpected:
        cause = _cause([(tuple(state[name].shape), tuple(expected[name].shape)) for name in reshaped])
        check(cause is None, f"the weights in {path} are for {cause}: {_some(shapes)}")
    differences = [
        f"{len(names)} {what} ({_some(names)})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    check(not differences, f"the weights in {path} are not this network's: tensors {', '.join(differences)}")
    network.load_state_dict(state)


def _cause(shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> str | None:
    """What two networks of one architecture differ in, if only their head or only their first convolution does.

    Args:
        shapes: Found and expected shape of each tensor that differs.
    """
    found, expected = shapes[0]
    is_head = len(shapes) <= 2 and len(found) >= 2 and all(of[1:] == to[1:] for of, to in shapes)
    if is_head and all((of[0], to[0]) == (found[0], expected[0]) for of, to in shapes):
        return f"{found[0]} classes, not {expected[0]}"
    if len(shapes) == 1 and len(found) == len(expected) == 4 and found[0] == expected[0] and found[2:] == expected[2:]:
        return f"images of {found[1]} channels, not {expected[1]}"
    return None


def _read(path: Path, expected_bytes: int) -> dict[str, Tensor]:
    check(path.is_file(), f"there is no weights file {path}")
    try:
        _check_size(path, expected_bytes)
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how a file was pickled, which is not the user's business
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is refused: it is no weights file, or holds more than tensors") from error
    except Exception as error:  # on bytes that are no checkpoint, torch raises whatever its reader stumbles over
        raise UserError(f"{path} cannot be read as a weights file: {one_line(error)}") from error
    return _state_dict(content, path)


def _check_size(path: Path, expected_bytes: int) -> None:
    """Refuses what would take far more memory than the network's weights, optimizer and all, before it does."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = max(size, sum(entry.file_size for entry in archive.infolist()))
    fits = size <= max(_SMALL, _LARGEST_RATIO * expected_bytes)
    check(fits, f"{path} is refused: it holds {size >> 20} MiB, but the network's weights {expected_bytes / 2**20:.1f}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as stored:
        state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (it is no mapping)
        known = (stored.metadata() or {}).get(CHECKSUM)
    check(known is None or known == _checksum(state), f"the weights in {path} were altered: their checksum differs")
    return state


def _checksum(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {state[name].dtype} {list(state[name].shape)}\n".encode())
        digest.update(state[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    is_state = isinstance(content, Mapping) and all(_is_plain(value) for value in content.values())
    check(is_state, f"{path} holds no state dict (tensors by name, alone or under 'model' or 'state_dict')")
    return {str(name): tensor for name, tensor in content.items()}


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
