"""Draw the picture of the README: `python docs/draw_idea.py` writes docs/idea.svg."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

INK, MUTED, EDGE = "#263238", "#607080", "#90a4ae"
CLASSES = ("#3b7dd8", "#e0853c", "#3aa374")
CONTRAST = "#b3263f"
TEXT, SMALL = 9.5, 8.5
TEACHER, STUDENT = 4.55, 1.25  # heights of the two rows
LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
NEIGHBOURS = 3


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str) -> None:
    """Draw a labelled box around a centre."""
    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0.02,rounding_size=0.1"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc="#f5f7f9", ec=EDGE, lw=1.2))
    axes.text(x, y, text, ha="center", va="center", fontsize=TEXT, color=INK)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    """Draw an arrow."""
    look: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 11,
        "color": MUTED,
        "lw": 1.3,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.add_patch(FancyArrowPatch(start, end, **{**look, **style}))


def network(axes: Axes, x: float, y: float, height: float, text: str) -> None:
    """Draw a network that narrows from its input to its embedding."""
    left, right = height / 2, height / 5
    shape = [(x - 0.6, y - left), (x - 0.6, y + left), (x + 0.6, y + right), (x + 0.6, y - right)]
    axes.add_patch(Polygon(shape, closed=True, fc="#dfe6ec", ec=EDGE, lw=1.2, joinstyle="round"))
    axes.text(x, y, text, ha="center", va="center", fontsize=TEXT, color=INK)


def images(axes: Axes, x: float, y: float) -> None:
    """Draw a batch of images as squares in the colours of their classes."""
    for number, label in enumerate(LABELS):
        corner = (x - 0.52 + 0.36 * (number % 3), y + 0.2 - 0.36 * (number // 3))
        axes.add_patch(Rectangle(corner, 0.3, 0.3, fc=CLASSES[label], ec="white", lw=0.8))
    axes.text(x, y - 1.05, "batch\nof images", ha="center", fontsize=TEXT, color=INK)


def graph(axes: Axes, x: float, y: float, spread: float, seed: int) -> None:
    """Draw a batch's samples around their classes, each with edges from its nearest neighbours."""
    angles = np.pi * (0.5 + 2 * LABELS / 3)
    corners = np.pi * (0.1 + 2 * np.tile(range(3), 3) / 3)
    points = (x, y) + 0.5 * np.stack([1.25 * np.cos(angles), np.sin(angles)], axis=1)
    points += 0.17 * np.stack([np.cos(corners), np.sin(corners)], axis=1)
    points += spread * np.random.default_rng(seed).normal(size=points.shape)
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    for target, sources in enumerate(distances.argsort(axis=1)[:, 1:NEIGHBOURS]):
        for source in sources:
            axes.plot(*points[[target, source]].T, color=EDGE, lw=1.1, zorder=1)
    axes.scatter(points[:, 0], points[:, 1], s=52, c=[CLASSES[label] for label in LABELS], ec="white", lw=0.8, zorder=2)


def bank(axes: Axes, x: float, y: float) -> None:
    """Draw the feature banks as a cylinder."""
    axes.add_patch(Rectangle((x - 0.8, y - 0.32), 1.6, 0.64, fc="#fbeef0", ec="none"))
    axes.add_patch(Ellipse((x, y - 0.32), 1.6, 0.26, fc="#fbeef0", ec=CONTRAST, lw=1.1))
    axes.add_patch(Rectangle((x - 0.8, y - 0.32), 1.6, 0.3, fc="#fbeef0", ec="none"))
    axes.plot([x - 0.8, x - 0.8], [y - 0.32, y + 0.32], color=CONTRAST, lw=1.1)
    axes.plot([x + 0.8, x + 0.8], [y - 0.32, y + 0.32], color=CONTRAST, lw=1.1)
    axes.add_patch(Ellipse((x, y + 0.32), 1.6, 0.26, fc="#fbeef0", ec=CONTRAST, lw=1.1))
    axes.text(x, y - 0.1, "feature banks", ha="center", va="center", fontsize=TEXT, color=CONTRAST)


def contrast(axes: Axes, x: float, top: float, bottom: float, text: str, side: float) -> None:
    """Draw what is drawn together: a double arrow between the two rows."""
    arrow(axes, (x, bottom), (x, top), arrowstyle="<|-|>", color=CONTRAST, lw=1.8)
    where = "left" if side > 0 else "right"
    axes.text(x + side, (top + bottom) / 2, text, ha=where, va="center", fontsize=TEXT, color=CONTRAST)


def row(axes: Axes, y: float, name: str, height: float, spread: float, seed: int) -> None:
    """Draw one network with its embedding, its graph and its graph embedding."""
    network(axes, 2.55, y, height, name)
    box(axes, 4.75, y, 1.6, 0.62, "embeddings")
    graph(axes, 7.35, y, spread, seed)
    box(axes, 9.75, y, 1.2, 0.9, "graph\nencoder")
    box(axes, 12.0, y, 1.6, 0.9, "graph\nembeddings")
    for start, end in ((3.2, 3.88), (5.62, 6.3), (8.4, 9.08), (10.42, 11.13)):
        arrow(axes, (start, y), (end, y))


def draw(path: Path) -> None:
    """Draw the picture into a file."""
    plt.rcParams.update({"svg.hashsalt": "graphkd", "font.family": "DejaVu Sans"})
    figure, axes = plt.subplots(figsize=(10.4, 4.7))
    axes.set(xlim=(-0.15, 13.0), ylim=(-0.1, 5.75), aspect="equal")
    axes.axis("off")
    middle = (TEACHER + STUDENT) / 2
    images(axes, 0.6, middle)
    row(axes, TEACHER, "teacher\n(frozen)", 1.7, 0.03, 1)
    row(axes, STUDENT, "student", 1.1, 0.2, 7)
    arrow(axes, (1.2, middle + 0.3), (1.85, TEACHER - 0.2))
    arrow(axes, (1.2, middle - 0.3), (1.85, STUDENT + 0.2))
    contrast(axes, 4.75, TEACHER - 0.42, STUDENT + 0.42, "individual\ncontrast", 0.15)
    contrast(axes, 12.0, TEACHER - 0.56, STUDENT + 0.56, "holistic\ncontrast", -0.15)
    bank(axes, 8.2, middle)
    for start, end in ((7.35, 6.05), (9.05, 10.75)):
        arrow(axes, (start, middle), (end, middle), color=CONTRAST, lw=1.1)
        axes.text((start + end) / 2, middle + 0.16, "negatives", ha="center", fontsize=SMALL, color=CONTRAST)
    for y, side in ((TEACHER + 0.95, "teacher"), (STUDENT - 1.15, "student")):
        axes.text(7.35, y, f"the {side}'s graph of the batch", ha="center", fontsize=SMALL, color=MUTED)
    arrow(axes, (2.55, TEACHER - 0.7), (2.55, STUDENT + 0.5), color=MUTED, linestyle=(0, (4, 3)))
    axes.text(2.65, middle, "logits:\nCE, KD, ...", ha="left", va="center", fontsize=SMALL, color=MUTED)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.05, facecolor="white", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("idea.svg"))
