"""Adapters that turn any module from images to logits into a network with inner features.

Features are read by forward hooks instead of torchvision's `create_feature_extractor`: hooks leave the module, its
tensor names and its modes as they are, and need no symbolic tracing, which many modules do not support. They exist for
one forward pass only, so that nothing in the module holds a graph or prevents a copy.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.errors import UserError, check, did_you_mean
from graphkd.model.base import Network, forward_hooks
from graphkd.model.tracing import DROPOUTS, Call, Tap, square_size, trace


class Wrapped(Network):
    """A network made of a module by `wrap`; its state dict is the module's own, under the same names."""

    def __init__(
        self,
        module: nn.Module,
        features: Sequence[str] | None = None,
        embedding: str | None = None,
        num_classes: int | None = None,
        example: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        output, image, calls, activated = trace(module, example)
        logits = output.logits if isinstance(output, NetworkOutput) else _check_logits(output)
        head = _head(calls, logits)
        if num_classes is not None and num_classes != logits.shape[1]:
            _replace_head(module, head, num_classes)
        self._features: list[Tap] = []
        self._preactivations: list[Tap] | None = None
        self._embedding: Tap | None = None
        if isinstance(output, NetworkOutput):
            named = features is not None or embedding is not None
            check(not named, "the module returns a NetworkOutput; it shows its own features, and none can be named")
            return
        stages = _stages(calls, image, head)
        self.token_blocks = _token_blocks(module, calls, behind=stages)
        # Maps in front of blocks of tokens are those of a stem, none of which is the network's last.
        self._features = [] if self.token_blocks else stages
        if features is not None:
            self._features = [_named(module, calls, name, (3, 4), "map and no sequence of tokens") for name in features]
        self._preactivations = _preactivations(module, self._features, calls, activated)
        if embedding is not None:
            self._embedding = _named(module, calls, embedding, (2, 4), "vector and no map")
        elif head is not None:
            self._embedding = Tap(head.name, at_input=True)
        else:
            check(len(stages) > 0, "the module has no last linear layer and no map; name the part for the embedding")
            self._embedding = stages[-1]

    def forward(self, images: Tensor) -> NetworkOutput:
        """Return the output for images, float [B, C, H, W]; raise a `UserError` if the module returns no logits."""
        before = self._preactivations or []
        taps = [] if self._embedding is None else [*self._features, *before, self._embedding]
        with _reading(self.module, taps) as read:
            output = self.module(images)
        unread = dict.fromkeys(tap.part for tap in taps if tap not in read)
        check(not unread, f"the module has not run its parts {', '.join(unread)}, whose features it is to show")
        if self._embedding is None:
            return NetworkOutput(*output)
        logits = _check_logits(output)
        features = [_map(read[tap], tap, images) for tap in self._features]
        preactivations = [_map(read[tap], tap, images) for tap in before]
        embedding = read[self._embedding]
        if embedding.dim() == 4:
            embedding = _oriented(embedding, self._embedding).mean((2, 3))
        return NetworkOutput(logits, features, embedding, None if self._preactivations is None else preactivations)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in [name for name in state_dict if name.startswith(prefix)]:
            state_dict[f"{prefix}module.{name.removeprefix(prefix)}"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)


def wrap(
    module: nn.Module, *,
    features: Sequence[str] | None = None, embedding: str | None = None, num_classes: int | None = None,
    example: Tensor | None = None,
) -> Wrapped:  # fmt: skip
    """Make a network of any module that maps images to logits.

    The module is run once, in eval mode, to find its parts; it becomes part of the network without a copy. Outputs that
    the module changes in place later are shown changed.

    The pre-activation of a map is the input of the activation that returns it (which is set to work out of place), or
    the map itself where it is not activated. There are no pre-activations where a map is activated by a function
    instead of a part of the module, or rearranged after its activation (pooled, concatenated).

    Args:
        module: Maps images, float [B, C, H, W], to logits, float [B, classes], or to a `NetworkOutput`.
        features: Names of parts (as in `named_modules`) whose outputs are the feature maps, the stem's first: maps
            [B, channels, H, W] or [B, H, W, channels], or tokens [B, T, channels] in rows of a square (behind class
            tokens, if any). None for the last map at each resolution, except within blocks that change the resolution;
            these may be few or none. A vision transformer has none, since the map of its patch embedding is only the
            input of its blocks.
        embedding: Name of the part whose output is the embedding, pooled if it is a map. None for the input of the last
            linear layer or 1x1 convolution, which gives the logits, or else the pooled last map.
        num_classes: If it differs from the module's, that last layer is replaced by a new one with as many outputs.
        example: A batch of square images to run the module on. None for a black image of 64, 224 or 32 pixels, the
            first that the module takes, with the channels of its first convolution.

    Raises:
        UserError: The module cannot be run, returns no logits, or lacks a named part, an embedding, or a last layer to
            replace.
    """
    return Wrapped(module, features, embedding, num_classes, example)


def _preactivations(
    module: nn.Module, features: Sequence[Tap], calls: Mapping[str, Call], activated: Collection[int]
) -> list[Tap] | None:
    """Return the taps of the maps' pre-activations; None where a map has no activation among the parts."""
    found: list[Tap] = []
    for tap in features:
        map_ = calls[tap.part].output()
        if id(map_) not in activated:
            found.append(tap)
            continue
        parts = [call.name for call in calls.values() if call.activates and call.output() is map_]
        if not parts:
            return None
        found.append(Tap(parts[0], tap.channels_last, at_input=True))
    for tap in found:
        part = module.get_submodule(tap.part)
        if tap.at_input and hasattr(part, "inplace"):
            part.inplace = False  # type: ignore[assignment]  # keeps its input, which is shown
    return found


def _token_blocks(module: nn.Module, calls: Mapping[str, Call], behind: Sequence[Tap]) -> tuple[str, ...]:
    """Return the names of the blocks from tokens to tokens, [B, T, channels], that run after the maps, in order."""
    names = list(calls)
    first = max((names.index(tap.part) + 1 for tap in behind), default=0)
    return tuple(
        call.name
        for call in list(calls.values())[first:]
        if len(call.given) == 3 and call.given == call.returned and call.given[1] > 1 and _is_block(module, call)
    )


def _is_block(module: nn.Module, call: Call) -> bool:
    """Return whether a part has parts itself and is an element of a sequence or list."""
    parent = module.get_submodule(call.name.rpartition(".")[0])
    return next(call.part.children(), None) is not None and isinstance(parent, (nn.Sequential, nn.ModuleList))


@contextmanager
def _reading(module: nn.Module, taps: Iterable[Tap]) -> Iterator[dict[Tap, Tensor]]:
    """Read the module's taps in this context, into the mapping."""
    read: dict[Tap, Tensor] = {}

    def note(tap: Tap, part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        read[tap] = inputs[0] if tap.at_input else output

    with forward_hooks((module.get_submodule(tap.part), functools.partial(note, tap)) for tap in taps):
        yield read


def _check_logits(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise UserError(
            f"the module returns a {type(output).__name__}, but must return logits alone; build it without auxiliary "
            "classifiers (in torchvision: aux_logits=False)"
        )
    check(output.dim() == 2, f"the module returns {list(output.shape)}, but must return logits [B, classes]")
    return output


def _head(calls: Mapping[str, Call], logits: Tensor) -> Call | None:
    """Return the layer of the logits: a linear one, or a 1x1 convolution that is the last part with weights."""
    linear = [call for call in calls.values() if isinstance(call.part, nn.Linear) and len(call.given) == 2]
    if linear and linear[-1].returned == tuple(logits.shape):
        return linear[-1]
    weighty = [call for call in calls.values() if any(True for _ in call.part.parameters(recurse=False))]
    last = weighty[-1].part if weighty else None
    is_head = isinstance(last, nn.Conv2d) and (*last.kernel_size, last.out_channels) == (1, 1, logits.shape[1])
    return weighty[-1] if is_head else None


def _replace_head(module: nn.Module, head: Call | None, num_classes: int) -> None:
    check(num_classes >= 1, f"num_classes is {num_classes}, but must be at least 1")
    old = None if head is None else head.part
    if head is None or not isinstance(old, (nn.Linear, nn.Conv2d)):
        raise UserError(f"the module has no last layer that could be replaced for num_classes={num_classes}")
    new = copy.deepcopy(old)
    if isinstance(new, nn.Linear):
        new.out_features = num_classes
    else:
        new.out_channels = num_classes
    new.weight = nn.Parameter(old.weight.new_empty(num_classes, *old.weight.shape[1:]))
    if old.bias is not None:
        new.bias = nn.Parameter(old.bias.new_empty(num_classes))
    new.reset_parameters()
    replace_part(module, head.name, new)


def replace_part(module: nn.Module, name: str, part: nn.Module) -> None:
    """Replace the part of this name (as in `named_modules`)."""
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, part)


def example_image(in_channels: int, image_size: int | None) -> Tensor | None:
    """Return a black image of this size, for `wrap`; None without a size.

    Raises:
        UserError: The size is below 1.
    """
    if image_size is None:
        return None
    check(image_size >= 1, f"image_size is {image_size}, but must be at least 1")
    return torch.zeros(1, in_channels, image_size, image_size)


def _stages(calls: Mapping[str, Call], image: Tensor, head: Call | None) -> list[Tap]:
    """Return the last map at each resolution, in order; none that is pooled or larger than one before."""
    found: dict[int, Call] = {}
    for call in calls.values():
        if head is not None and call.name == head.name:
            break
        size = square_size(call.returned)
        if size is None or size == 1 or size > min(found, default=size):
            continue
        if not isinstance(call.part, DROPOUTS) and not _is_inner(call, size, calls, image):
            found[size] = call
    return [call.tap for call in found.values()]


def _is_inner(call: Call, size: int, calls: Mapping[str, Call], image: Tensor) -> bool:
    """Return whether a map lies within a block at neither its output's resolution nor one between input and output.

    Plain sequences and blocks that take the image, such as a whole backbone, do not count as blocks.
    """
    names = call.name.split(".")
    for depth in range(1, len(names)):
        block = calls.get(".".join(names[:depth]))
        if block is None or type(block.part) is nn.Sequential or block.given == tuple(image.shape):
            continue
        given, returned = square_size(block.given), square_size(block.returned) or 0
        if given is not None and size != returned and not returned < size < given:
            return True
    return False


def _named(module: nn.Module, calls: Mapping[str, Call], name: str, dims: tuple[int, ...], what: str) -> Tap:
    parts = [known for known, _ in module.named_modules() if known]
    check(name in parts, f"the module has no part '{name}'{did_you_mean(name, parts)}")
    check(name in calls, f"part '{name}' of the module is not run in its forward pass, or returns no tensor")
    shape = calls[name].returned
    check(len(shape) in dims, f"part '{name}' of the module returns {list(shape)}, which is no {what}")
    return calls[name].tap


def _oriented(tensor: Tensor, tap: Tap) -> Tensor:
    return tensor.movedim(-1, 1) if tap.channels_last else tensor


def _map(tensor: Tensor, tap: Tap, images: Tensor) -> Tensor:
    """Return a tensor as a map [B, channels, H, W]; tokens are the rows of a square."""
    if tensor.dim() == 4:
        return _oriented(tensor, tap)
    tokens, (height, width) = tensor.shape[1], images.shape[-2:]
    check(height == width, f"the tokens of '{tap.part}' make maps for square images only, not for {height}x{width}")
    side = max(side for side in range(1, math.isqrt(tokens) + 1) if height % side == 0)
    return tensor[:, tokens - side * side :].movedim(-1, 1).reshape(len(tensor), -1, side, side)
