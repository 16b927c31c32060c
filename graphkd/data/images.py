"""Many encoded images to one uint8 tensor, in threads."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from typing import NamedTuple, TypeVar

import numpy as np
import psutil
import torch
from torch import Tensor

from graphkd.data.picture import (
    WHITE,
    BrokenImageError,
    Decoder,
    Picture,
    Source,
    as_seen,
    check_image,
    explain,
    open_image,
    size_text,
)
from graphkd.errors import check

T = TypeVar("T")
_LOOKED_AT = 32
_MAX_THREADS = 16
_GIB = 2**30


class Images(NamedTuple):
    """Decoded images.

    Attributes:
        pixels: uint8 [n, C, H, H].
        kept: Which images these are, int64 [n].
        broken: For each that is missing, where it is and why it is broken.
        animated: How many have several frames.
        constant: How many are of one colour throughout.
    """

    pixels: Tensor
    kept: Tensor
    broken: tuple[str, ...]
    animated: int = 0
    constant: int = 0


def decode_images(
    batches: Iterable[Sequence[Source]],
    count: int,
    where: Callable[[int], str],
    plain: Decoder,
    skip_broken: bool = False,
) -> Images:
    """Decode images in threads, into memory that is asked for once.

    Args:
        batches: The images, some at a time.
        count: How many there are in all.
        where: Returns the name of an image for messages, by its index.
        plain: The decoder; without a size, all images must have that of the first.
        skip_broken: Leaves broken images out.

    Raises:
        UserError: An image is broken (unless skipped), not square without a `size`, all are broken, or they do
            not fit in memory.
    """
    pixels = np.empty((0,), dtype=np.uint8)
    broken: dict[int, str] = {}
    decoder: Decoder | None = None
    start = animated = constant = 0
    with decoding_threads() as pool:
        for sources in batches:
            if decoder is None and (decoder := _with_size(plain, sources, where, start)) is not None:
                pixels = _allocate(count, decoder)
            decode = functools.partial(_decode_into, pixels[start:], decoder or plain)
            for index, found in enumerate(pool.starmap(decode, enumerate(sources)), start):
                if isinstance(found, str):
                    broken[index] = f"{where(index)}: {found}"
                    check(skip_broken, f"broken image: {broken[index]} (data.skip_broken=true leaves such out)")
                else:
                    animated, constant = animated + found[0], constant + found[1]
            start += len(sources)
    assert start == count
    check(len(broken) < count, f"all {count} images are broken, the first is {next(iter(broken.values()), '')}")
    kept = torch.tensor([index for index in range(count) if index not in broken])
    tensor = torch.from_numpy(pixels)
    return Images(tensor[kept] if broken else tensor, kept, tuple(broken.values()), animated, constant)


def in_batches(items: Sequence[T], size: int = 2048) -> Iterator[Sequence[T]]:
    """Return the items, `size` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def find_broken(files: Sequence[str]) -> dict[int, str]:
    """Return why the files of these positions are broken; each is read whole, but no result is kept."""
    with decoding_threads() as pool:
        reasons = pool.map(_why_broken, files)
        return {index: reason for index, reason in enumerate(reasons) if reason is not None}


def _why_broken(file: str) -> str | None:
    try:
        with open_image(file) as image:
            check_image(image)
            image.draft("RGB", (1, 1))  # a JPEG's coarsest scale still reads all its data
            as_seen(image, 3, WHITE)
    except Exception as error:
        return explain(error)
    return None


@contextlib.contextmanager
def decoding_threads() -> Iterator[ThreadPool]:
    """Open a pool of decoding threads, without Pillow's warnings of oversized images: `check_image` refuses them."""
    with ThreadPool(min(_MAX_THREADS, os.cpu_count() or 1)) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pool


def _try(decoder: Decoder, source: Source) -> Picture | str:
    """Return the image, or why it is broken."""
    try:
        return decoder(source)
    except BrokenImageError as error:
        return str(error)


def _decode_into(pixels: np.ndarray, decoder: Decoder, index: int, source: Source) -> tuple[bool, bool] | str:
    """Decode an image into its row; return whether it is animated and constant, or why it is broken."""
    picture = _try(decoder, source)
    if isinstance(picture, str):
        return picture
    pixels[index] = picture.pixels
    return picture.animated, picture.constant


def _with_size(decoder: Decoder, sources: Sequence[Source], where: Callable[[int], str], start: int) -> Decoder | None:
    """Return a decoder for images of one size, which the first sound image gives; None without any."""
    if decoder.size is not None:
        return decoder
    for index, source in enumerate(sources, start):
        picture = _try(decoder, source)
        if isinstance(picture, str):
            continue
        _, height, width = picture.pixels.shape
        size = size_text((width, height))
        square = f"{where(index)} is {size}, but images must be square: data.image_size=N makes all N x N"
        check(height == width, square)
        return replace(decoder, expected=(width, height))
    return None


def _allocate(count: int, decoder: Decoder) -> np.ndarray:
    """Return memory for that many images.

    Raises:
        UserError: It is more than the machine's whole memory.
    """
    side = decoder.size or (decoder.expected or (0,))[0]
    shape = (count, decoder.channels, side, side)
    needed, memory = math.prod(shape), psutil.virtual_memory().total
    check(
        needed < memory,
        f"{count} images of {side} x {side} pixels take {needed / _GIB:.1f} GiB, but this machine has "
        f"{memory / _GIB:.1f} GiB of memory: choose a smaller data.image_size",
    )
    return np.empty(shape, dtype=np.uint8)


def note_broken(split: str, count: int, broken: Sequence[str]) -> tuple[str, ...]:
    """Return a line on the broken images that were left out; none where there are none."""
    if not broken:
        return ()
    more = f", and {len(broken) - 3} more" if len(broken) > 3 else ""
    return (f"{len(broken)} of {count} {split} images are broken and left out: {'; '.join(broken[:3])}{more}",)


def note_images(split: str, count: int, images: Images) -> tuple[str, ...]:
    """Return lines on images that are broken and left out, animated, or of one colour throughout."""
    kinds = _note_kinds(f"of {count} {split} images", images.animated, images.constant)
    return note_broken(split, count, images.broken) + kinds


def note_sample(split: str, files: Sequence[str], decoder: Decoder) -> tuple[str, ...]:
    """Return such lines for a sample of images that are decoded later; broken ones are reported then."""
    sample = files[:: -(-len(files) // _LOOKED_AT)]
    with decoding_threads() as pool:
        found = pool.map(functools.partial(_try, decoder), sample)
    pictures = [picture for picture in found if not isinstance(picture, str)]
    animated, constant = (sum(getattr(picture, kind) for picture in pictures) for kind in ("animated", "constant"))
    return _note_kinds(f"of {len(sample)} {split} images that were looked at", animated, constant)


def _note_kinds(of: str, animated: int, constant: int) -> tuple[str, ...]:
    told = {
        "have several frames: the first is used": animated,
        "are of one colour throughout; data.background chooses what transparent ones are drawn on": constant,
    }
    return tuple(f"{count} {of} {what}" for what, count in told.items() if count)
