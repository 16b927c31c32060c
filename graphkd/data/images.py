"""Encoded images (JPEG, PNG, ...) to one uint8 tensor, in threads."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageColor, UnidentifiedImageError
from torch import Tensor

from graphkd.errors import brief, check, one_line

T = TypeVar("T")
Source = bytes | str | None
"""An encoded image, the file that holds it, or nothing where it is missing."""

MODES = {1: "L", 3: "RGB"}
Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
_NO_PICTURES = frozenset({"BUFR", "EPS", "FLI", "GRIB", "HDF5", "IPTC", "MPEG", "PALM", "PDF", "WMF"})
"""Pillow's formats that hold no picture, or one that another program must draw."""
_ANIMATED = frozenset({"AVIF", "GIF", "PNG", "TIFF", "WEBP"})
_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = (
    "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90",
)  # fmt: skip
"""What undoes EXIF's orientations from 2 on."""
_LONGEST = 100
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


class Picture(NamedTuple):
    """One decoded image, uint8 [C, H, W], and whether it is the first of several frames."""

    pixels: np.ndarray
    animated: bool

    @property
    def constant(self) -> bool:
        """Whether all of several pixels are equal."""
        return self.pixels[0].size > 1 and bool((self.pixels == self.pixels[:, :1, :1]).all())


class BrokenImageError(Exception):
    """An image that cannot be used; the message says why."""


@dataclass(frozen=True)
class Decoder:
    """Decodes one image.

    Args:
        channels: 1 for grey, 3 for colour.
        size: Height and width of the result in pixels: the central square, resized. None: as the image is.
        expected: Width and height that the image must have as it is seen; None for any.
        background: What transparent images are drawn on.
        resample: How they are resized: bilinear (antialiased), or by area.
    """

    channels: int
    size: int | None = None
    expected: tuple[int, int] | None = None
    background: Colour = WHITE
    resample: Literal["bilinear", "area"] = "bilinear"

    def __call__(self, source: Source) -> Picture:
        """Return the image as it is seen.

        Raises:
            BrokenImageError: There is none, or not of the expected size.
        """
        try:
            with open_image(source) as image:
                seen = as_seen(image, self.channels, self.background)
                if self.expected is not None and seen.size != self.expected:
                    raise BrokenImageError(
                        f"it is {_times(seen.size)} where the first image is {_times(self.expected)}: "
                        "data.image_size=N makes all N x N"
                    )
                return Picture(self.pixels(seen), _is_animated(image))
        except Exception as error:  # Pillow's readers raise nearly anything on broken data
            raise BrokenImageError(explain(error)) from error

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return the pixels of an image that `as_seen` gave, uint8 [C, H, W], resized."""
        if self.size is not None and image.size != (self.size, self.size):
            side = min(image.size)
            left, top = ((length - side) / 2 for length in image.size)
            box = (left, top, left + side, top + side)
            how = Image.Resampling.BOX if self.resample == "area" else Image.Resampling.BILINEAR
            image = image.resize((self.size, self.size), how, box=box)
        pixels = np.asarray(image)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)


def as_seen(image: Image.Image, channels: int, background: Colour) -> Image.Image:
    """Return the first frame of an opened image as a person sees it, in mode L or RGB.

    It is turned as its EXIF data say; the upper 8 of 16 bits are kept; what is transparent shows the background.

    Args:
        image: As `open_image` gives it.
        channels: 1 for grey, 3 for colour.
        background: What transparent images are drawn on.

    Raises:
        BrokenImageError: See `check_image`, or its values have more than 16 bits.
    """
    check_image(image)
    image = _on_background(_with_8_bits(upright(image)), background)
    return image.convert(MODES[channels])


def upright(image: Image.Image) -> Image.Image:
    """Return an opened image turned and flipped as its EXIF data say."""
    image.load()  # this turns a TIFF file
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a picture with broken EXIF data can be seen all the same
        return image
    if orientation not in range(2, 2 + len(_TURNS)):
        return image
    return image.transpose(Image.Transpose[_TURNS[orientation - 2]])


def _with_8_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if image.mode == "I" and not (values.min() >= 0 and values.max() < 2**16):
        raise BrokenImageError(f"its values run from {values.min()} to {values.max()}, which do not fit in 16 bits")
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray((values != image.info["transparency"]).astype(np.uint8) * 255))
    return grey


def _on_background(image: Image.Image, background: Colour) -> Image.Image:
    if image.mode in ("La", "LAB"):  # Pillow converts them to one mode only
        image = image.convert({"La": "LA", "LAB": "RGB"}[image.mode])
    if not image.has_transparency_data:
        return image
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple) and max(transparent) > 255:  # Pillow keeps 8 of 16 bits of the image alone
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    return Image.alpha_composite(Image.new("RGBA", image.size, background), image.convert("RGBA"))


def _is_animated(image: Image.Image) -> bool:
    try:
        return image.format in _ANIMATED and bool(getattr(image, "is_animated", False))
    except Exception:  # a broken second frame
        return True


def colour(background: str | Sequence[int]) -> Colour:
    """Return the colour that an option names.

    Args:
        background: A name or `#rrggbb` as in CSS, or red, green and blue from 0 to 255.

    Raises:
        UserError: It is no colour.
    """
    try:
        values = ImageColor.getrgb(background)[:3] if isinstance(background, str) else tuple(background)
    except ValueError:
        values = ()
    check(
        len(values) == 3 and all(0 <= value <= 255 for value in values),
        f"background is {brief(background)}, but must be a colour: a name (white, black), '#rrggbb', or [r,g,b] "
        "of 0 to 255",
    )
    red, green, blue = values
    return red, green, blue


def open_image(source: Source) -> Image.Image:
    """Return the image, its header read only."""
    if source is None:
        raise BrokenImageError("there is no image")
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in _NO_PICTURES)


@functools.cache
def image_endings() -> frozenset[str]:
    """Return the endings of image files, in lower case with their dots: all that Pillow reads as pictures."""
    formats = _formats()
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in formats)


def check_image(image: Image.Image) -> None:
    """Check an image's header: it must fit in memory, also when its shorter side is made longer, and have integers.

    Raises:
        BrokenImageError: It does not.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise BrokenImageError(f"its {_times(image.size)} pixels are more than Pillow's limit of {limit}")
    if max(image.size) > _LONGEST * min(image.size):
        raise BrokenImageError(f"it is {_times(image.size)}: one side is more than {_LONGEST} times the other")
    if image.mode.startswith("F"):
        raise BrokenImageError("its values are floating-point numbers, not integers of 8 or 16 bits")


def explain(error: BaseException) -> str:
    """Return why an image cannot be decoded, without the addresses in memory that Pillow's messages hold."""
    if isinstance(error, BrokenImageError):
        return str(error)
    return "it is not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)


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
        where: What messages call the image of an index.
        plain: How each is decoded; without a size, all must have that of the first.
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
    """Return threads that decode images, without Pillow's warnings of oversized ones: `check_image` refuses them."""
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
        size = _times((width, height))
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
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        return np.empty(shape, dtype=np.uint8)
    needed = math.prod(shape)
    check(
        needed < memory,
        f"{count} images of {side} x {side} pixels take {needed / _GIB:.1f} GiB, but this machine has "
        f"{memory / _GIB:.1f} GiB of memory: choose a smaller data.image_size",
    )
    return np.empty(shape, dtype=np.uint8)


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def note_broken(split: str, count: int, broken: Sequence[str]) -> tuple[str, ...]:
    """Return the line that tells of broken images that were left out; none where there are none."""
    if not broken:
        return ()
    more = f", and {len(broken) - 3} more" if len(broken) > 3 else ""
    return (f"{len(broken)} of {count} {split} images are broken and left out: {'; '.join(broken[:3])}{more}",)


def note_images(split: str, count: int, images: Images) -> tuple[str, ...]:
    """Return the lines that tell of images that are broken and left out, animated, or of one colour throughout."""
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
