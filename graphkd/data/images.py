"""Encoded images (JPEG, PNG, ...) to one uint8 tensor, in threads."""

from __future__ import annotations

import functools
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from graphkd.errors import brief, check, one_line

if TYPE_CHECKING:
    from PIL import Image

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
    """One decoded image.

    Attributes:
        pixels: uint8 [C, H, W].
        animated: Whether it is the first of several frames.
    """

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
        size: Height and width of the result in pixels: the central square, resized (bilinear, antialiased).
            None: as the image is.
        expected: Width and height that the image must have as it is seen; None for any.
        background: What transparent images are drawn on.
    """

    channels: int
    size: int | None = None
    expected: tuple[int, int] | None = None
    background: Colour = WHITE

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
                return Picture(self._pixels(seen), _is_animated(image))
        except BrokenImageError:
            raise
        except Exception as error:  # Pillow's readers raise nearly anything on broken data
            raise BrokenImageError(explain(error)) from error

    def _pixels(self, image: Image.Image) -> np.ndarray:
        from PIL import Image

        if self.size is not None and image.size != (self.size, self.size):
            side = min(image.size)
            left, top = ((length - side) / 2 for length in image.size)
            box = (left, top, left + side, top + side)
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
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
    from PIL import Image

    image.load()  # this turns a TIFF file
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a picture with broken EXIF data can be seen all the same
        return image
    if orientation not in range(2, 2 + len(_TURNS)):
        return image
    return image.transpose(Image.Transpose[_TURNS[orientation - 2]])


def _with_8_bits(image: Image.Image) -> Image.Image:
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if image.mode == "I" and not (values.min() >= 0 and values.max() < 2**16):
        raise BrokenImageError(f"its values run from {values.min()} to {values.max()}, which are no 16 bits")
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray((values != image.info["transparency"]).astype(np.uint8) * 255))
    return grey


def _on_background(image: Image.Image, background: Colour) -> Image.Image:
    from PIL import Image

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
    from PIL import ImageColor

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


def check_channels(in_channels: int) -> None:
    """Raises `UserError` unless there is such a kind of image."""
    check(in_channels in MODES, f"in_channels is {in_channels}, but must be 1 (grey) or 3 (colour)")


def open_image(source: Source) -> Image.Image:
    """Return the image, its header read only."""
    from PIL import Image

    if source is None:
        raise BrokenImageError("there is no image")
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in Image.ID if name not in _NO_PICTURES)


@functools.cache
def image_endings() -> frozenset[str]:
    """Return the endings of image files, in lower case with their dots: all that Pillow reads as pictures."""
    from PIL import Image

    formats = _formats()
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in formats)


def check_image(image: Image.Image) -> None:
    """Check an image's header: it must fit in memory, also when its shorter side is made longer, and have integers.

    Raises:
        BrokenImageError: It does not.
    """
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise BrokenImageError(f"its {_times(image.size)} pixels are more than Pillow's limit of {limit}")
    if max(image.size) > _LONGEST * min(image.size):
        raise BrokenImageError(f"it is {_times(image.size)}: one side is more than {_LONGEST} times the other")
    if image.mode.startswith("F"):
        raise BrokenImageError("its values are floating-point numbers, not integers of 8 or 16 bits")


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
    background: Colour = WHITE,
) -> Images:
    """Decodes images in threads, into memory that is asked for once.

    Args:
        batches: The images, some at a time.
        count: How many there are in all.
        where: What messages call the image of an index.
        channels: 1 for grey, 3 for colour.
        size: Height and width in pixels, see `Decoder`; None if all images have one size.
        skip_broken: Leaves broken images out.
        background: What transparent images are drawn on.

    Raises:
        UserError: An image is broken (unless skipped), not square without a `size`, all are broken, or they do
            not fit in memory.
    """
    pixels = np.empty((0,), dtype=np.uint8)
    broken: dict[int, str] = {}
    plain = Decoder(channels, size, background=background)
    decoder: Decoder | None = None
    start = animated = constant = 0
    with ThreadPoolExecutor(_threads()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of oversized images: check_image refuses them
        for sources in batches:
            if decoder is None:
                decoder = _decoder_for(sources, plain, where, start)
                if decoder is not None:
                    pixels = _allocate(count, decoder)
            part = _decode_batch(pool, decoder or plain, sources, pixels[start:])
            animated, constant = animated + part.animated, constant + part.constant
            for index, message in part.messages.items():
                broken[start + index] = f"{where(start + index)}: {message}"
                check(skip_broken, f"broken image: {broken[start + index]} (data.skip_broken=true leaves such out)")
            start += len(sources)
    assert start == count
    check(len(broken) < count, f"all {count} images are broken, the first is {next(iter(broken.values()), '')}")
    kept = torch.tensor([index for index in range(count) if index not in broken])
    tensor = torch.from_numpy(pixels)
    return Images(tensor[kept] if broken else tensor, kept, tuple(broken.values()), animated, constant)


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
            as_seen(image, 3, WHITE)
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
            _, height, width = decoder(source).pixels.shape
        except BrokenImageError:
            continue
        check(
            height == width,
            f"{where(start + index)} is {_times((width, height))}, but images must be square: "
            "data.image_size=N makes all N x N",
        )
        return replace(decoder, expected=(width, height))
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


class _Part(NamedTuple):
    """What came of some images: the messages of the broken ones by their positions, and counts of the others."""

    messages: dict[int, str]
    animated: int
    constant: int


def _decode_batch(pool: ThreadPoolExecutor, decoder: Decoder, sources: Sequence[Source], pixels: np.ndarray) -> _Part:
    """Decodes into the first rows of `pixels`."""
    step = -(-len(sources) // _threads())

    def decode(first: int) -> _Part:
        messages: dict[int, str] = {}
        animated = constant = 0
        for index in range(first, min(first + step, len(sources))):
            try:
                picture = decoder(sources[index])
            except BrokenImageError as error:
                messages[index] = str(error)
                continue
            pixels[index] = picture.pixels
            animated, constant = animated + picture.animated, constant + picture.constant
        return _Part(messages, animated, constant)

    parts = list(pool.map(decode, range(0, len(sources), step or 1)))
    messages = {index: message for part in parts for index, message in part.messages.items()}
    return _Part(messages, sum(part.animated for part in parts), sum(part.constant for part in parts))


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def note_broken(split: str, count: int, broken: Sequence[str]) -> tuple[str, ...]:
    """The line that tells of broken images that were left out; none where there are none."""
    if not broken:
        return ()
    more = f", and {len(broken) - 3} more" if len(broken) > 3 else ""
    return (f"{len(broken)} of {count} {split} images are broken and left out: {'; '.join(broken[:3])}{more}",)


def note_images(split: str, count: int, images: Images) -> tuple[str, ...]:
    """Return the lines that tell of images that are broken and left out, animated, or of one colour throughout."""
    kinds = _note_kinds(f"of {count} {split} images", images.animated, images.constant)
    return note_broken(split, count, images.broken) + kinds


def note_sample(split: str, files: Sequence[str], decoder: Decoder) -> tuple[str, ...]:
    """Return such lines for a sample of images that are decoded later; broken ones are told then."""
    sample = files[:: -(-len(files) // _LOOKED_AT)]
    with ThreadPoolExecutor(_threads()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pictures = [picture for picture in pool.map(functools.partial(_try, decoder), sample) if picture]
    animated, constant = (sum(getattr(picture, kind) for picture in pictures) for kind in ("animated", "constant"))
    return _note_kinds(f"of {len(sample)} {split} images that were looked at", animated, constant)


def _try(decoder: Decoder, file: str) -> Picture | None:
    try:
        return decoder(file)
    except BrokenImageError:
        return None


def _note_kinds(of: str, animated: int, constant: int) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    if animated:
        notes += (f"{animated} {of} have several frames: the first is used",)
    if constant:
        background = "data.background chooses what transparent ones are drawn on"
        notes += (f"{constant} {of} are of one colour throughout; {background}",)
    return notes
