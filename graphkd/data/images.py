"""Encoded images (JPEG, PNG, ...) to one uint8 tensor, in threads."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from graphkd.errors import check, one_line

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
Source = bytes | str | None
"""An encoded image, the file that holds it, or nothing where it is missing."""

MODES = {1: "L", 3: "RGB"}
_MAX_THREADS = 16
_GIB = 2**30


class Images(NamedTuple):
    """Decoded images.

    Attributes:
        pixels: uint8 [n, C, H, H].
        kept: Which images these are, int64 [n].
        broken: For each that is missing, where it is and why it is broken.
    """

    pixels: Tensor
    kept: Tensor
    broken: tuple[str, ...]


class BrokenImageError(Exception):
    """An image that cannot be used; the message says why."""


@dataclass(frozen=True)
class Decoder:
    """Decodes one image.

    Args:
        channels: 1 for grey, 3 for colour.
        size: Height and width of the result in pixels: the central square, resized (bilinear, antialiased).
            None: as the image is.
        expected: Width and height that the image must have; None for any.
    """

    channels: int
    size: int | None = None
    expected: tuple[int, int] | None = None

    def __call__(self, source: Source) -> np.ndarray:
        """The pixels, uint8 [C, H, W].

        Raises:
            BrokenImageError: There are none, or not of the expected size.
        """
        try:
            with open_image(source) as image:
                check_image(image)
                if self.expected is not None and image.size != self.expected:
                    raise BrokenImageError(
                        f"it is {_times(image.size)} where the first image is {_times(self.expected)}: "
                        "data.image_size=N makes all N x N"
                    )
                return self._pixels(image)
        except BrokenImageError:
            raise
        except Exception as error:  # Pillow's readers raise nearly anything on broken data
            raise BrokenImageError(explain(error)) from error

    def _pixels(self, image: Image.Image) -> np.ndarray:
        from PIL import Image

        converted = image.convert(MODES[self.channels])
        if self.size is not None and converted.size != (self.size, self.size):
            side = min(converted.size)
            left, top = ((length - side) / 2 for length in converted.size)
            box = (left, top, left + side, top + side)
            converted = converted.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        pixels = np.asarray(converted)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)


def check_channels(in_channels: int) -> None:
    """Raises `UserError` unless there is such a kind of image."""
    check(in_channels in MODES, f"in_channels is {in_channels}, but must be 1 (grey) or 3 (colour)")


def open_image(source: Source) -> Image.Image:
    """The image, its header read only."""
    from PIL import Image

    if source is None:
        raise BrokenImageError("there is no image")
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def check_image(image: Image.Image) -> None:
    """Raises `BrokenImageError` for one that is too large or would lose its lower bits; reads no pixels."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise BrokenImageError(f"its {_times(image.size)} pixels are more than Pillow's limit of {limit}")
    if image.mode.startswith(("I", "F")):
        raise BrokenImageError("it has more than 8 bits a channel")


def explain(error: BaseException) -> str:
    """Why an image cannot be decoded, without the addresses in memory that Pillow's messages hold."""
    from PIL import UnidentifiedImageError

    if isinstance(error, BrokenImageError):
        return str(error)
    return "it is no image" if isinstance(error, UnidentifiedImageError) else one_line(error)


def decode_images(
    batches: Iterable[Sequence[Source]],
    count: int,
    where: Callable[[int], str],
    channels: int,
    size: int | None,
    skip_broken: bool,
) -> Images:
    """Decodes images in threads, into memory that is asked for once.

    Args:
        batches: The images, some at a time.
        count: How many there are in all.
        where: What messages call the image of an index.
        channels: 1 for grey, 3 for colour.
        size: Height and width in pixels, see `Decoder`; None if all images have one size.
        skip_broken: Leaves broken images out.

    Raises:
        UserError: An image is broken (unless skipped), not square without a `size`, all are broken, or they do
            not fit in memory.
    """
    pixels = np.empty((0,), dtype=np.uint8)
    broken: dict[int, str] = {}
    decoder: Decoder | None = None
    start = 0
    with ThreadPoolExecutor(_threads()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of oversized images: check_image refuses them
        for sources in batches:
            if decoder is None:
                decoder = _decoder_for(sources, Decoder(channels, size), where, start)
                if decoder is not None:
                    pixels = _allocate(count, decoder)
            messages = _decode_batch(pool, decoder or Decoder(channels, size), sources, pixels[start:])
            for index, message in messages.items():
                broken[start + index] = f"{where(start + index)}: {message}"
                check(skip_broken, f"broken image: {broken[start + index]} (data.skip_broken=true leaves such out)")
            start += len(sources)
    assert start == count
    check(len(broken) < count, f"all {count} images are broken, the first is {next(iter(broken.values()), '')}")
    kept = torch.tensor([index for index in range(count) if index not in broken])
    tensor = torch.from_numpy(pixels)
    return Images(tensor[kept] if broken else tensor, kept, tuple(broken.values()))


def in_batches(items: Sequence[T], size: int = 2048) -> Iterator[Sequence[T]]:
    """The items, `size` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def find_broken(files: Sequence[str]) -> dict[int, str]:
    """Why the files of these positions are broken; each is read whole, but no result is kept."""
    with ThreadPoolExecutor(_threads()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reasons = pool.map(_why_broken, files)
        return {index: reason for index, reason in enumerate(reasons) if reason is not None}


def _why_broken(file: str) -> str | None:
    try:
        with open_image(file) as image:
            check_image(image)
            image.draft("RGB", (1, 1))  # a JPEG's coarsest scale still reads all its data
            image.load()
    except Exception as error:
        return explain(error)
    return None


def _threads() -> int:
    return min(_MAX_THREADS, os.cpu_count() or 1)


def _decoder_for(
    sources: Sequence[Source], decoder: Decoder, where: Callable[[int], str], start: int
) -> Decoder | None:
    """The decoder for images of one size, which the first that is sound gives; None without any."""
    if decoder.size is not None:
        return decoder
    for index, source in enumerate(sources):
        try:
            _, height, width = decoder(source).shape
        except BrokenImageError:
            continue
        check(
            height == width,
            f"{where(start + index)} is {_times((width, height))}, but images must be square: "
            "data.image_size=N makes all N x N",
        )
        return Decoder(decoder.channels, expected=(width, height))
    return None


def _allocate(count: int, decoder: Decoder) -> np.ndarray:
    side = decoder.size or (decoder.expected or (0,))[0]
    check_memory(count, decoder.channels, side)
    return np.empty((count, decoder.channels, side, side), dtype=np.uint8)


def check_memory(count: int, channels: int, side: int) -> None:
    """Raises `UserError` where that many images are more than the machine's whole memory."""
    memory, needed = _physical_memory(), count * channels * side * side
    check(
        memory is None or needed < memory,
        f"{count} images of {side} x {side} pixels take {needed / _GIB:.1f} GiB, but this machine has "
        f"{(memory or 0) / _GIB:.1f} GiB of memory: choose a smaller data.image_size",
    )


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        return None


def _decode_batch(
    pool: ThreadPoolExecutor, decoder: Decoder, sources: Sequence[Source], pixels: np.ndarray
) -> dict[int, str]:
    """Decodes into the first rows of `pixels`; the messages of the broken ones by their positions."""
    step = -(-len(sources) // _threads())

    def decode(first: int) -> dict[int, str]:
        messages: dict[int, str] = {}
        for index in range(first, min(first + step, len(sources))):
            try:
                pixels[index] = decoder(sources[index])
            except BrokenImageError as error:
                messages[index] = str(error)
        return messages

    merged: dict[int, str] = {}
    for part in pool.map(decode, range(0, len(sources), step or 1)):
        merged |= part
    return merged


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def note_broken(split: str, count: int, broken: Sequence[str]) -> tuple[str, ...]:
    """The line that tells of broken images that were left out; none where there are none."""
    if not broken:
        return ()
    more = f", and {len(broken) - 3} more" if len(broken) > 3 else ""
    return (f"{len(broken)} of {count} {split} images are broken and left out: {'; '.join(broken[:3])}{more}",)
