"""A workaround for convolutions that oneDNN, torch's library on the CPU, computes incorrectly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_BLOCK = 8
"""Channels that oneDNN processes at once with AVX2."""


@contextmanager
def sound_convolutions(*modules: nn.Module) -> Iterator[None]:
    """Use torch's own convolutions in this context if oneDNN could corrupt a gradient of the modules.

    The weight gradient of a strided 1x1 convolution of fewer channels than a block, with maps channels last, may write
    past its workspace, seen with AVX2 and AVX-512: the result is wrong, or the process crashes or hangs
    (https://github.com/uxlfoundation/oneDNN/issues/6035). `torch.compile` uses channels last by itself.

    Args:
        modules: All modules that are trained with maps channels last.
    """
    layers = (layer for module in modules for layer in module.modules())
    if any(_strided_and_narrow(layer) for layer in layers):
        before = torch.backends.mkldnn.set_flags(False)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            torch.backends.mkldnn.set_flags(before[0])  # type: ignore[no-untyped-call]
    else:
        yield


def _strided_and_narrow(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and set(layer.kernel_size) == {1}
        and set(layer.stride) != {1}
        and layer.in_channels // layer.groups < _BLOCK
    )
