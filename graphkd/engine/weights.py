"""Weights of networks as files."""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from graphkd.errors import UserError, check, one_line
from graphkd.files import hash_file, write_atomically
from graphkd.model import Network

CHECKSUM = "sha256"
"""Key of the checksum of names and tensors in the header of our own files."""
WRAPPERS = (
    "model", "state_dict", "model_state_dict", "net", "network", "ema", "model_ema", "state_dict_ema", "ema_state_dict",
)  # fmt: skip
"""Keys under which training scripts keep a network's state dict, in the order of the search."""
HARMLESS = (
    "argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta",
    "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath",
    "pathlib._local.Path", "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
    "_codecs.encode", "numpy.dtype", "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)  # fmt: skip
"""Types that training scripts put beside the tensors and that are not needed: options, scores, times, paths."""
_COUNTER = "num_batches_tracked"
_NEVER = ("builtins", "nt", "os", "posix", "subprocess", "sys")  # modules that malicious code uses
_DEEPEST = 3  # nested wrappers
_SMALL = 1 << 30
_LARGEST_RATIO = 16
_LARGEST = 1 << 35  # bytes, for a file whose network is not built yet


def save_weights(network: Network, path: Path) -> None:
    """Write a network's weights atomically as safetensors; contiguous, on the CPU, under plain names.

    The header of the file has their checksum.
    """
    state = plain_state(network)
    write_atomically(path, safetensors.torch.save(state, {CHECKSUM: _checksum(state)}))


def plain_state(network: Network) -> dict[str, Tensor]:
    """Return copies of a network's tensors by name, contiguous and on the CPU; safetensors takes no shared memory."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }


def load_weights(network: Network, path: Path, head: Collection[str] = ()) -> tuple[str, ...]:
    """Load weights into a network: this project's safetensors, or a file from elsewhere.

    A prefix that the network's tensor names have in the file (from `torch.compile`, data-parallel training, Lightning
    or a distillation wrapper) is removed, from some of them if the others have none, and batch norm's counters may be
    missing.

    Args:
        network: The network to fill, in place.
        path: Safetensors, or a file that `torch.load(weights_only=True)` reads: a state dict, alone or under one of
            `WRAPPERS`.
        head: Tensors that are not loaded but stay as they are. If any are given, the file may also hold parts that the
            network lacks, such as another head.

    Returns:
        Notes for the user on how the file was read, a line each.

    Raises:
        UserError: The file is missing, cannot be read safely, was altered, is far too large for the network, or does
            not fit; the message says what differs.
    """
    expected = network.state_dict()
    state, notes = _read(path, sum(tensor.nbytes for tensor in expected.values()))
    if head:
        expected = {name: tensor for name, tensor in expected.items() if name not in head}
    if any(name not in state for name in expected if not name.endswith(_COUNTER)):
        state, note = _without_prefix(state, expected, path)
        notes += note
    if head:
        parts = {name.partition(".")[0] for name in expected}
        left_out = [name for name in state if name in head or name.partition(".")[0] not in parts]
        state = {name: tensor for name, tensor in state.items() if name not in left_out}
        left = f"; {len(left_out)} tensors of the file are left out ({_some(left_out)})" if left_out else ""
        notes += (f"{path}: the head starts anew ({', '.join(head)}){left}",)
    # Old files lack the counters, which only a batch norm without momentum reads; torch fills them in too.
    state |= {name: expected[name] for name in expected.keys() - state.keys() if name.endswith(_COUNTER)}
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
    network.load_state_dict(state, strict=not head)
    return notes


def check_weights(path: Path) -> None:
    """Check that one of our own weights files is intact.

    Raises:
        UserError: It is truncated, was altered, or is missing.
    """
    _read(path, _SMALL)


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    Raises:
        UserError: It is larger than any weights file.
    """
    size = path.stat().st_size
    check(size <= _LARGEST, f"{path} is refused: its {size >> 20} MiB are more than a file of weights has")
    return hash_file(path).hex()


def _without_prefix(
    state: dict[str, Tensor], expected: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Remove the prefix under which every name missing without one is found, or else the most common one.

    The most common one is only removed where no expected name is there without a prefix.
    """
    found: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        starts = [".".join([*parts[:depth], ""]) for depth in range(1, len(parts))]
        found.update(start for start in starts if name.removeprefix(start) in expected)
    plain = state.keys() & expected.keys()
    needed = [name for name in expected if not name.endswith(_COUNTER) and name not in plain]
    whole = [prefix for prefix in found if all(prefix + name in state for name in needed)]
    if len(whole) > 1:
        one = whole[0]
        raise UserError(
            f"{path} holds several networks of these names, behind {', '.join(whole)}; keep one, for example: torch"
            f".save({{n.removeprefix({one!r}): t for n, t in state.items() if n.startswith({one!r})}}, 'weights.pth')"
        )
    if not found or (plain and not whole):
        return state, ()
    prefix = whole[0] if whole else found.most_common(1)[0][0]
    others = [name for name in state if not name.startswith(prefix) and name not in plain]
    note = f"{path}: the prefix '{prefix}' of the tensor names was removed"
    if whole and others:
        state = {name: tensor for name, tensor in state.items() if name not in others}
        note += f", and {len(others)} tensors without it ({_some(others)})"
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}, (note,)


def _cause(shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> str | None:
    """Return how two networks of one architecture differ, if only in their head or their first convolution.

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


def _read(path: Path, expected_bytes: int) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    check(path.is_file(), f"there is no weights file {path}")
    try:
        _check_size(path, expected_bytes)
        if path.suffix == ".safetensors":
            return _read_safetensors(path), ()
        with warnings.catch_warnings(), _harmless_types():
            warnings.simplefilter("ignore")  # about how a file was pickled, which does not concern the user
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is refused: {_why_refused(str(error), path)}") from error
    except Exception as error:  # torch raises all kinds of errors on bytes that are no checkpoint
        if "TorchScript" in str(error):
            fix = f"torch.save(torch.jit.load({str(path)!r}).state_dict(), 'weights.pth')"
            raise UserError(f"{path} is a TorchScript program, no weights file; if you trust it: {fix}") from error
        raise UserError(f"{path} cannot be read as a weights file: {one_line(error)}") from error
    return _state_dict(content, path)


class _Inert:
    """Placeholder for an object in a file that is not needed: accepts any arguments and keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        """Accept any arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


def _harmless_types() -> AbstractContextManager[Any]:
    """Let torch read the objects that training scripts put beside the tensors, as empty placeholders."""
    safe_globals = getattr(torch.serialization, "safe_globals", None)  # since torch 2.5
    if safe_globals is None:
        return nullcontext()
    names = (name.rpartition(".") for name in HARMLESS)
    stand_ins = [type(name, (_Inert,), {"__module__": module, "__qualname__": name}) for module, _, name in names]
    manager: AbstractContextManager[Any] = safe_globals(stand_ins)
    return manager


def _why_refused(message: str, path: Path) -> str:
    """Say what torch's reader refused, and how to make a file of tensors only."""
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if found is None:
        return "it is no weights file, or holds more than tensors"
    what = f"it holds {found[1]}, more than tensors"
    if found[1].partition(".")[0] in _NEVER:
        return what
    pickled = _pickled(path)
    wrapper = next((key for key in WRAPPERS if len(key).to_bytes(4, "little") + key.encode() in pickled), WRAPPERS[0])
    take = ".state_dict()" if b"torch.nn.modules" in pickled else f"[{wrapper!r}]"
    fix = f"torch.save(torch.load({str(path)!r}, weights_only=False){take}, 'weights.pth')"
    return f"{what}; if you trust it, keep only its state dict: {fix}"


def _pickled(path: Path) -> bytes:
    """Return the pickled bytes of a file, which name its types, without loading them."""
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))


def _check_size(path: Path, expected_bytes: int) -> None:
    """Refuse a file far larger than the network's weights and optimizer, before memory is allocated."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = max(size, sum(entry.file_size for entry in archive.infolist()))
    fits = size <= max(_SMALL, _LARGEST_RATIO * expected_bytes)
    check(fits, f"{path} is refused: it holds {size >> 20} MiB, but the network's weights {expected_bytes / 2**20:.1f}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as stored:
        state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
        known = (stored.metadata() or {}).get(CHECKSUM)
    check(known is None or known == _checksum(state), f"the weights in {path} were altered: their checksum differs")
    return state


def _checksum(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {state[name].dtype} {list(state[name].shape)}\n".encode())
        digest.update(state[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _state_dict(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    notes: tuple[str, ...] = ()
    for _ in range(_DEEPEST):
        wrappers = [key for key in WRAPPERS if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
        if not wrappers:
            break
        filled = [key for key in wrappers if _has_tensors(content[key])]
        if len(filled) > 1:
            notes += (f"{path}: the weights under '{filled[0]}' are used, not those under {', '.join(filled[1:])}",)
        content = content[(filled or wrappers)[0]]
    is_mapping = isinstance(content, Mapping)
    nested = [key for key, value in content.items() if _has_tensors(value)] if is_mapping else []
    if nested or not _has_tensors(content):
        found = f"the keys {_some([repr(key) for key in content])}" if is_mapping else f"a {type(content).__name__}"
        fix = (
            f"torch.save(torch.load({str(path)!r}, weights_only=False)[{nested[0]!r}], 'weights.pth')" if nested else ""
        )
        hint = f"; if you trust it, extract one: {fix}" if nested else ""
        raise UserError(f"{path} holds no state dict (tensors by name), but {found}{hint}")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    odd = [f"{name} ({value.layout}, {value.device})" for name, value in tensors.items() if not _is_plain(value)]
    check(not odd, f"{path} holds no state dict of plain tensors: {_some(odd)}")
    return tensors, notes


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def _is_plain(value: Tensor) -> bool:
    return value.layout == torch.strided and value.device.type == "cpu"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
