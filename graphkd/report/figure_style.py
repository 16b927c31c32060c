"""The looks of all figures: sizes, colours, and text in lines that fit."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from graphkd.report.markup import escaped

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties

WIDTH = 540.0
"""Width of a figure in points (1/72 inch), the unit of all lengths here: 900 pixels at `DPI`."""
DPI = 120
SIZES = {"title": 12.0, "text": 10.0, "small": 9.0}
LEADING = 1.3
"""Distance of two lines of text as a multiple of its size."""
GREY = "0.35"
Style = tuple[str, str, Any]
STYLES: tuple[Style, ...] = (
    ("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"),
    ("#56B4E9", "v", "-"), ("#E69F00", "P", "--"), ("#000000", "X", "-."),
)  # fmt: skip
"""Colour, marker and line of each series: a palette for the colour-blind (Okabe and Ito), told apart without it too."""
BASELINE_STYLE: Style = ("#D55E00", "D", "")
LEVEL_DASHES: tuple[Any, ...] = ("--", ":", "-.", (0, (10, 3)), (0, (3, 6)), (0, (8, 2, 1, 2, 1, 2)))
"""Lines of the variants that are no points on the axis."""


def look() -> AbstractContextManager[None]:
    """Set matplotlib's defaults whatever the user's are, our looks, and constant names inside SVG."""
    from matplotlib import style

    look = {
        "text.hinting": "none", "text.parse_math": False, "svg.hashsalt": "graphkd", "font.size": SIZES["text"],
        "xtick.labelsize": SIZES["small"], "ytick.labelsize": SIZES["small"], "legend.fontsize": SIZES["small"],
        "legend.title_fontsize": SIZES["small"], "legend.frameon": False, "axes.grid": True, "grid.color": "0.88",
        "axes.axisbelow": True, "axes.edgecolor": "0.5", "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    return style.context(["default", look])


def wrapped(text: str, width: float, size: str = "text") -> str:
    """Return the text in lines that are no wider than this, broken behind spaces and signs, or anywhere if need be.

    Signs that the font lacks, which would all be the same empty box, become escapes.
    """
    from matplotlib.font_manager import findfont, get_font

    glyphs = get_font(findfont(_font(size)))

    def fits(line: str) -> bool:
        return width_of(line.rstrip(), size) <= width

    drawable = "".join(sign if glyphs.get_char_index(ord(sign)) else escaped(sign) for sign in text)
    lines = [""]
    for word in re.findall(r"[^ _,/+>-]*[ _,/+>-]+|[^ _,/+>-]+", drawable):
        for part in [word] if fits(word) else word:
            if lines[-1] and not fits(lines[-1] + part):
                lines.append("")
            lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def width_of(text: str, size: str) -> float:
    """Return the width of a text's widest line, in points."""
    from matplotlib.textpath import text_to_path

    font = _font(size)
    return max(text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] for line in text.split("\n"))


def height_of(text: str, size: str) -> float:
    """Return the height of a text's lines, in points."""
    return (text.count("\n") + 1) * LEADING * SIZES[size]


def _font(size: str) -> FontProperties:
    from matplotlib.font_manager import FontProperties

    return FontProperties(size=SIZES[size], weight="bold" if size == "title" else "normal")
