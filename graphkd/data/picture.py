"""One encoded image (JPEG, PNG, ...) to pixels, as a person sees it."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from graphkd.errors import brief, check, one_line

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
"""Pillow's operations that undo EXIF's orientations, from 2 on."""
_LONGEST = 100


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
    """Decode one image.

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
                        f"it is {size_text(seen.size)} where the first image is {size_text(self.expected)}: "
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
    """Return the image, its header read only.

    Raises:
        BrokenImageError: There is none. Pillow's errors are raised too.
    """
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
        raise BrokenImageError(f"its {size_text(image.size)} pixels are more than Pillow's limit of {limit}")
    if max(image.size) > _LONGEST * min(image.size):
        raise BrokenImageError(f"it is {size_text(image.size)}: one side is more than {_LONGEST} times the other")
    if image.mode.startswith("F"):
        raise BrokenImageError("its values are floating-point numbers, not integers of 8 or 16 bits")


def explain(error: BaseException) -> str:
    """Return why an image cannot be decoded, without the addresses in memory that Pillow's messages hold."""
    if isinstance(error, BrokenImageError):
        return str(error)
    return "it is not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)


def size_text(size: tuple[int, int]) -> str:
    """Return width and height as text."""
    return f"{size[0]} x {size[1]}"
