"""Pictures are read as a person sees them, whatever their format and however they are decoded."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from graphkd.data.images import decode_images, note_images
from graphkd.data.picture import WHITE, BrokenImageError, Decoder, colour, image_endings
from graphkd.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (4, 3, 3), dtype=np.uint8)  # three wide, four high
RED, BLACK = (255, 0, 0), (0, 0, 0)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def seen(content: bytes, channels: int = 3, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """The pixels [H, W, C], or [H, W] of grey ones."""
    pixels = Decoder(channels, background=background)(content).pixels
    return pixels[0] if channels == 1 else pixels.transpose(1, 2, 0)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth: int, colour_type: int, row: bytes, transparent: bytes) -> bytes:
    """A picture two wide and one high, of which one value is transparent."""
    header = struct.pack(">IIBBBBB", 2, 1, depth, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_seen_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    content = saved(Image.fromarray(RGB), kind, exif=exif, **options)
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(seen(content), np.asarray(ImageOps.exif_transpose(image)))
    shape = (3, 4) if orientation >= 5 else (4, 3)
    assert seen(content).shape[:2] == shape
    assert Decoder(3, expected=shape[::-1])(content).pixels.shape == (3, *shape)
    with pytest.raises(BrokenImageError, match=f"it is {shape[1]} x {shape[0]} where"):
        Decoder(3, expected=shape)(content)


def test_turning_by_hand() -> None:
    """What a camera held upright stores: the top of what is seen is the right column."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(seen(saved(Image.fromarray(RGB), exif=exif)), np.rot90(RGB, -1))


@pytest.mark.parametrize("value", [0, 9, 2**16 - 1])
def test_orientations_that_are_none_turn_nothing(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(seen(saved(Image.fromarray(RGB), exif=exif)), RGB)
    assert np.array_equal(seen(saved(Image.fromarray(RGB), exif=b"Exif\0\0broken")), RGB)


@pytest.mark.parametrize("background", [WHITE, BLACK, RED])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_shows_the_background(channels: int, background: tuple[int, int, int]) -> None:
    alpha = np.array([[0, 255, 128], [255, 0, 1], [64, 200, 254], [0, 0, 255]], dtype=np.uint8)
    pictures = [saved(Image.fromarray(np.dstack([RGB, alpha])), kind) for kind in ("PNG", "TIFF")]
    pictures.append(saved(Image.fromarray(np.dstack([RGB, alpha])), "WEBP", lossless=True, exact=True))
    share = alpha[..., None] / 255
    expected = RGB * share + np.array(background) * (1 - share)
    for content in pictures:
        if channels == 3:
            assert np.abs(seen(content, 3, background) - expected).max() <= 1
            assert np.array_equal(seen(content, 3, background)[alpha == 255], RGB[alpha == 255])
        else:
            grey = expected @ [0.299, 0.587, 0.114]
            assert np.abs(seen(content, 1, background) - grey).max() <= 2
    with_alpha = Image.merge("LA", [Image.fromarray(RGB[..., 0]), Image.fromarray(alpha)])
    expected = RGB[..., :1] * share + np.array(background) * (1 - share)
    assert np.abs(seen(saved(with_alpha), 3, background) - expected).max() <= 1


def test_transparent_values_of_palettes_and_of_other_modes() -> None:
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert seen(saved(palette)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert seen(saved(palette, transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]
    assert seen(saved(palette, transparency=b"\xff\x00"), 3, RED).tolist() == [[[10, 20, 30], [255, 0, 0]]]
    assert seen(saved(palette, "GIF", transparency=1), 3, RED).tolist() == [[[10, 20, 30], [255, 0, 0]]]
    assert seen(png(8, 0, b"\x07\x09", b"\0\x07"), 1).tolist() == [[255, 9]]
    assert seen(png(8, 2, b"\1\2\3\4\5\6", b"\0\1\0\2\0\3")).tolist() == [[[255] * 3, [4, 5, 6]]]
    assert seen(png(16, 0, b"\x12\x34\xff\x00", b"\x12\x34"), 1).tolist() == [[255, 255]]
    assert seen(png(16, 0, b"\x12\x34\xff\x00", b"\x12\x34"), 1, BLACK).tolist() == [[0, 255]]
    assert seen(png(16, 2, b"\x12\0\x34\0\x56\0" + bytes(6), b"\x12\0\x34\0\x56\0")).tolist() == [[[255] * 3, [0] * 3]]


@given(st.lists(st.integers(0, 2**16 - 1), min_size=2, max_size=2))
def test_the_upper_8_of_16_bits_are_kept(values: list[int]) -> None:
    pixels = np.array([values], dtype=np.uint16)
    expected = [[value >> 8 for value in values]]
    portable = b"P5 2 1 65535\n" + pixels.astype(">u2").tobytes()
    for content in (saved(Image.fromarray(pixels)), saved(Image.fromarray(pixels), "TIFF"), portable):
        assert seen(content, 1).tolist() == expected
        assert seen(content, 3).tolist() == [[[value] * 3 for value in row] for row in expected]


def test_pixels_that_no_picture_has_are_refused() -> None:
    wide = saved(Image.fromarray(np.array([[1, 70_000]], dtype=np.int32)), "TIFF")
    with pytest.raises(BrokenImageError, match="its values run from 1 to 70000"):
        seen(wide)
    with pytest.raises(BrokenImageError, match="floating-point"):
        seen(saved(Image.fromarray(np.ones((2, 2), dtype=np.float32)), "TIFF"))


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, [255] * 3),
        ("L", 77, [77] * 3),
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("CMYK", (0, 255, 255, 0), [255, 0, 0]),
        ("CMYK", (0, 0, 0, 255), [0, 0, 0]),
        ("LAB", (255, 128, 128), [255] * 3),
    ],
)
def test_other_modes(mode: str, value: Any, expected: list[int]) -> None:
    content = saved(Image.new(mode, (2, 2), value), "TIFF")
    assert np.abs(seen(content) - np.array(expected, dtype=int)).max() <= 1
    grey = round(np.array(expected) @ [0.299, 0.587, 0.114])
    assert np.abs(seen(content, 1).astype(int) - grey).max() <= 1


def test_the_first_frame_of_several_and_images_of_one_colour_are_told() -> None:
    frames = [Image.new("RGB", (4, 4), value) for value in (RED, BLACK)]
    moving = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    glyph = np.zeros((4, 4, 4), dtype=np.uint8)
    glyph[1:3, 1:3, 3] = 255  # black on nothing
    sources = [moving, saved(Image.fromarray(glyph)), saved(Image.fromarray(np.pad(RGB, ((0, 0), (0, 1), (0, 0)))))]
    white = decode_images([sources], 3, str, Decoder(3))
    assert white.pixels[0, :, 0, 0].tolist() == [255, 0, 0]
    assert (white.animated, white.constant) == (1, 1)
    black = decode_images([sources], 3, str, Decoder(3, background=BLACK))
    assert (black.animated, black.constant) == (1, 2)
    first, second = note_images("train", 3, black)
    assert first == "1 of 3 train images have several frames: the first is used"
    assert second.startswith("2 of 3 train images are of one colour throughout; data.background")


@pytest.mark.parametrize("size", [(40_000, 1), (1, 40_000), (101, 1)])
def test_absurd_shapes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BrokenImageError, match="one side is more than 100 times the other"):
        Decoder(3, size=8)(saved(Image.new("1", size)))
    Decoder(3, size=8)(saved(Image.new("1", (100, 1))))


@pytest.mark.parametrize(
    ("given", "values"),
    [("white", WHITE), ("black", BLACK), ("#f00", RED), ("#FF0000", RED), ([255, 0, 0], RED), ((1, 2, 3), (1, 2, 3))],
)
def test_colours(given: Any, values: tuple[int, int, int]) -> None:
    assert colour(given) == values


@pytest.mark.parametrize("given", ["nowhite", "", "#12", [1, 2], [0, 0, 256], [-1, 0, 0]])
def test_what_is_no_colour(given: Any) -> None:
    with pytest.raises(UserError, match=r"background is .*, but must be a colour"):
        colour(given)


def test_which_files_are_pictures() -> None:
    endings = image_endings()
    assert {".jpg", ".jpeg", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".ppm", ".avif"} <= endings
    assert not {".pdf", ".eps", ".ps", ".mpg", ".h5", ".wmf", ".txt", ".npy", ""} & endings


def test_what_another_program_must_draw_is_never_opened(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    content = saved(Image.fromarray(RGB), "EPS")
    with pytest.raises(BrokenImageError, match="it is not an image"):
        Decoder(3)(content)
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(BrokenImageError, match="it is not an image"):
        Decoder(3)(str(tmp_path / "x.png"))
    assert torch.from_numpy(Decoder(3)(picture(0)).pixels.copy()).shape == (3, 8, 8)
