"""Run a module once, and see which parts it calls, on what shapes, and which tensors are activated."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from graphkd.errors import UserError, check, one_line
from graphkd.model.base import black_image, forward_hooks, probing

_SIZES = (64, 224, 32)  # from 64 px, strides of 32 still leave more than a 1x1 map, which would look like a pooled one
DROPOUTS = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_PASSING = (nn.Identity, *DROPOUTS)
"""Parts that return their input in eval mode."""


def _operations(names: Iterable[str]) -> set[Any]:
    return {getattr(torch.ops.aten, f"{name}{end}") for name in names for end in ("", "_")
            if hasattr(torch.ops.aten, f"{name}{end}")}  # fmt: skip


_ACTIVATIONS = _operations(["relu", "hardtanh", "leaky_relu", "elu", "silu", "gelu", "hardswish", "mish"])
"""Operations from a pre-activation to its map; ReLU6 is a `hardtanh`."""
_REARRANGEMENTS = _operations(
    [
        "cat", "split", "split_with_sizes", "slice", "view", "_unsafe_view", "permute", "transpose", "clone",
        "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d",
    ]
)  # fmt: skip
"""Operations that leave a map activated."""


class Tap(NamedTuple):
    """Where a tensor is read in a module: at the output or the input of one of its parts.

    Attributes:
        part: The part's name, as in `named_modules`.
        channels_last: Whether the tensor is a map [B, H, W, channels].
        at_input: Whether it is the part's (first) input.
    """

    part: str
    channels_last: bool = False
    at_input: bool = False


class Call(NamedTuple):
    """The last call of a part of a module.

    Attributes:
        name: The part's name, as in `named_modules`.
        part: The part.
        given: Shape of its first tensor.
        returned: Shape of its output.
        output: Its output, as long as that exists.
        activates: Whether it is an activation: a part without parts whose output an activation has just made.
    """

    name: str
    part: nn.Module
    given: tuple[int, ...]
    returned: tuple[int, ...]
    output: weakref.ref[Tensor]
    activates: bool

    @property
    def tap(self) -> Tap:
        """A tap at its output."""
        is_map = square_size(self.returned) is not None
        return Tap(self.name, channels_last=is_map and self.returned[2] != self.returned[3])


def square_size(shape: tuple[int, ...]) -> int | None:
    """Return the height of a square map, with channels first or last."""
    if len(shape) == 4 and shape[2] in (shape[1], shape[3]):
        return shape[2]
    return None


def trace(module: nn.Module, example: Tensor | None) -> tuple[Any, Tensor, dict[str, Call], dict[int, Any]]:
    """Run a module on the first images that it takes.

    Args:
        module: The module.
        example: Images that it takes, [B, C, size, size]; None to try black ones of several sizes.

    Returns:
        Its output, the images, the last call of each part by name, in order, and the activated tensors by `id`.

    Raises:
        UserError: The example is not square, or the module runs on none of the images.
    """
    if example is not None:
        square = example.dim() == 4 and example.shape[2] == example.shape[3]
        check(square, f"the example is {list(example.shape)}, but must be square images [B, C, size, size]")
        images, hint = [example], ""
    else:
        channels = next((part.in_channels for part in module.modules() if isinstance(part, nn.Conv2d)), 3)
        images = [black_image(module, channels, size) for size in _SIZES]
        hint = "; give an example of the images that it takes"
    causes: list[Exception] = []
    for image in images:
        try:
            output, calls, activated = _run(module, image)
        except Exception as error:  # a foreign module may raise anything
            causes.append(error)
        else:
            return output, image, calls, activated
    shapes = ", ".join(str(list(image.shape)) for image in images)
    raise UserError(f"the module does not run on images {shapes} ({one_line(causes[0])}){hint}") from causes[0]


def _run(module: nn.Module, image: Tensor) -> tuple[Any, dict[str, Call], dict[int, Any]]:
    """Run a module; return its output, its parts' calls by name, in order, and `_Activations.outputs`."""
    calls: dict[str, Call] = {}

    def note(name: str, part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls.pop(name, None)  # the last call of a part counts, and its place in the order
        if isinstance(output, Tensor):
            given = next((tuple(value.shape) for value in inputs if isinstance(value, Tensor)), ())
            _, fresh = activations.outputs.get(id(output), (None, False))
            activates = fresh and next(part.children(), None) is None and not isinstance(part, _PASSING)
            calls[name] = Call(name, part, given, tuple(output.shape), weakref.ref(output), activates)

    parts = {name: part for name, part in module.named_modules() if name}
    with (
        probing(module),
        forward_hooks((part, functools.partial(note, name)) for name, part in parts.items()),
        _Activations() as activations,
    ):
        output = module(image)
    return output, calls, activations.outputs


class _Activations(TorchDispatchMode):
    """Records the outputs of activations, whether these are parts of a module or functions.

    Attributes:
        outputs: Activated tensors by `id` (kept, so that no id is reused), and whether each is the activation's own
            output, or a rearrangement of it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.outputs: dict[int, tuple[Tensor, bool]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would load torch._dynamo, which takes seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        operation = func.overloadpacket
        is_activation = operation in _ACTIVATIONS
        if is_activation or (operation in _REARRANGEMENTS and any(id(x) in self.outputs for x in _listed(args[0]))):
            self.outputs |= {id(tensor): (tensor, is_activation) for tensor in _listed(output)}
        return output


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)
