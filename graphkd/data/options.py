"""Groups of options that several data sets share; `graphkd.binding.flat` makes their fields options of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from graphkd.data.picture import MODES, Colour, Decoder, colour
from graphkd.data.tensor import check_fractions
from graphkd.errors import check


@dataclass(frozen=True)
class SplitOptions:
    """Options of splits: which samples of the training split are for training, and which for validation.

    Attributes:
        train_fraction: Part of the training split to train on, stratified.
        val_fraction: Share of the training split for validation; 0 for none.
        split_seed: Chooses the samples of both, and of the test split where it is cut off too.

    Raises:
        UserError: A fraction is out of range, or nothing is left to train on.
    """

    train_fraction: float = 1.0
    val_fraction: float = 0.0
    split_seed: int = 0

    def __post_init__(self) -> None:
        check_fractions(self.train_fraction, self.held_out)

    @property
    def held_out(self) -> dict[str, float]:
        """Share of the training split for each split that is cut off it; 0 for none."""
        return {"val": self.val_fraction}


@dataclass(frozen=True)
class SplitOptionsWithTest(SplitOptions):
    """As `SplitOptions`, where the test split may be cut off the training split too.

    Attributes:
        test_fraction: Share of the training split for testing; 0 where there is a test split.
    """

    test_fraction: float = 0.0

    @property
    def held_out(self) -> dict[str, float]:
        """See `SplitOptions.held_out`."""
        return {"test": self.test_fraction, "val": self.val_fraction}


@dataclass(frozen=True)
class ImageOptions:
    """Options of decoding image files.

    Attributes:
        image_size: Height and width in pixels of the central square that images are resized to. None: all images have
            one size.
        in_channels: 3 for colour, 1 for grey; images are converted.
        mean: Mean of each channel, for pixel values in 0 .. 1. None: the training images'.
        std: Standard deviation of each channel, likewise.
        skip_broken: Leave broken images out instead of stopping; `skipped` counts them.
        cache: Where hashes of the files and decoded images are kept: true for beside the data, false for nowhere, or
            a folder.
        resample: How they are resized: bilinear (antialiased), or area (the mean of what each pixel covers).
        background: What transparent images are drawn on: a colour's name, `#rrggbb`, or red, green and blue from 0
            to 255.

    Raises:
        UserError: An option is out of range.
    """

    image_size: int | None = None
    in_channels: int = 3
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    skip_broken: bool = False
    cache: bool | str = True
    resample: Literal["bilinear", "area"] = "bilinear"
    background: str | Sequence[int] = "white"

    def __post_init__(self) -> None:
        channels, size = self.in_channels, self.image_size
        check(channels in MODES, f"in_channels is {channels}, but must be 1 (grey) or 3 (colour)")
        check(size is None or size >= 1, f"image_size is {size}, but must be at least 1")
        colour(self.background)

    @property
    def colour(self) -> Colour:
        """The background as red, green and blue."""
        return colour(self.background)

    @property
    def decoder(self) -> Decoder:
        """The decoder with these options."""
        return Decoder(self.in_channels, self.image_size, background=self.colour, resample=self.resample)

    @property
    def resampled(self) -> dict[str, str]:
        """`resample` for the key of a cache; empty for the default, so that older caches stay valid."""
        return {} if self.resample == "bilinear" else {"resample": self.resample}
