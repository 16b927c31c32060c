"""Pictures of a finished run: graphs, relations, embeddings, and what graphs were like over the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.diagnostics import sample_edges
from graphkd.report.figure_style import DPI, SIZES, STYLES, WIDTH, look, width_of, wrapped
from graphkd.report.metrics import DIAGNOSTICS, diagnostic_of
from graphkd.show.inspection import Inspection, NetworkView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT, WRONG = STYLES[2][0], STYLES[1][0]
"""Colours of edges within a class and between classes."""
COLOURS = (*(colour for colour, _, _ in STYLES), "#999999")
"""Colours of classes, one for each that `inspect` draws by default."""
PANEL = WIDTH / 72 / 2
LONGEST_LABEL = 40
"""Letters of a class name that are shown."""
KEY = 5 * SIZES["small"]
"""Width of a marker in a legend, with the space around it, in points."""
CURVES = ("teacher_homophily", "student_homophily", "overlap")


def draw_pictures(inspection: Inspection, epochs: Sequence[Mapping[str, Any]] = ()) -> list[tuple[str, Figure]]:
    """Draw the pictures of a run.

    Args:
        inspection: The run's networks and graphs.
        epochs: The lines of its `metrics.jsonl`; without diagnostics there is no picture of the training.

    Returns:
        Names and figures: `graphs`, `relations`, `embeddings` and `training`.
    """
    with look():
        figures = [
            ("graphs", draw_graphs(inspection)),
            ("relations", draw_relations(inspection)),
            ("embeddings", draw_embeddings(inspection)),
        ]
        curves = _curves(epochs)
        return figures + ([("training", draw_training(curves))] if curves else [])


def draw_graphs(inspection: Inspection) -> Figure:
    """Draw the graph of each network, the images in the same places: edges within a class green, others orange."""
    import networkx

    labels = inspection.labels[inspection.drawn]
    edges = [_edges_of(view, len(labels)) for view in inspection.networks]
    layout = networkx.Graph()
    layout.add_nodes_from(range(len(labels)))
    layout.add_edges_from(map(tuple, edges[0].tolist()))  # the teacher's, where there is one
    places = np.array(list(networkx.spring_layout(layout, seed=0, k=1.5 / len(labels) ** 0.5).values()))
    figure, panels = _panels(inspection, 1.25)
    builder = inspection.builder + ("" if inspection.pruned is None else f", pruned at {inspection.pruned}")
    for axes, view, pairs in zip(panels[0], inspection.networks, edges, strict=True):
        right = (labels[pairs[:, 0]] == labels[pairs[:, 1]]).numpy()
        for is_right, colour in ((False, WRONG), (True, RIGHT)):
            _draw_edges(axes, places, pairs.numpy()[right == is_right], colour)
        _draw_nodes(axes, places, labels)
        share = f"{right.mean():.0%} of {len(right)} edges within a class" if len(right) else "no edges"
        axes.set_title(f"{view.name}'s graph ({builder}): {share}")
    what = f"{len(labels)} test images of {len(inspection.class_names)} classes"
    figure.suptitle(f"{what}; the training's batches hold others", fontsize=SIZES["small"])
    return _with_legend(figure, inspection, [("edge within a class", RIGHT), ("edge between classes", WRONG)])


def draw_relations(inspection: Inspection) -> Figure:
    """Draw the cosine of all embeddings, and of all class probabilities, sorted by class."""
    figure, panels = _panels(inspection, 1.0, rows=2)
    names = ("embeddings", "probabilities")
    for column, view in enumerate(inspection.networks):
        values = (view.embedding, F.normalize(view.logits.softmax(dim=1), dim=1))
        for row, (name, rows) in enumerate(zip(names, values, strict=True)):
            axes = panels[row][column]
            image = axes.imshow((rows @ rows.T).numpy(), vmin=-1 if row == 0 else 0, vmax=1, cmap="viridis")
            axes.set_title(f"{view.name}: cosine of {name}")
            axes.grid(visible=False)
            _mark_classes(axes, inspection)
            figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def draw_embeddings(inspection: Inspection) -> Figure:
    """Draw each network's embeddings in two dimensions by t-SNE."""
    from sklearn.manifold import TSNE

    figure, panels = _panels(inspection, 1.25)
    for axes, view in zip(panels[0], inspection.networks, strict=True):
        perplexity = min(30.0, max(1.0, (len(view.embedding) - 1) / 3))
        places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(view.embedding.numpy())
        _draw_nodes(axes, places, inspection.labels)
        axes.set_title(f"{view.name}'s embeddings (t-SNE)")
    return _with_legend(figure, inspection)


def draw_training(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Draw diagnostics of graphs over the epochs, (epoch, value) by name."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure((WIDTH / 72, 0.55 * WIDTH / 72), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for (name, points), (colour, marker, line) in zip(curves.items(), STYLES, strict=False):
        mark = marker if len(points) == 1 else None  # a line of one point cannot be seen
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=line, marker=mark, label=DIAGNOSTICS[name].label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylim(0, 1)
    axes.legend()
    return figure


def _curves(epochs: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Return the finite diagnostics of the first term that has graphs, by name."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name in CURVES:
        for epoch in epochs:
            value = diagnostic_of(epoch.get("diagnostics", {}), name)
            if value is not None:
                found.setdefault(name, []).append((epoch["epoch"], value))
    return found


def _edges_of(view: NetworkView, images: int) -> Tensor:
    """Return the two images of each edge, int64 [E, 2]."""
    return torch.stack(sample_edges(view.graph, torch.arange(images)), dim=1)


def _panels(inspection: Inspection, height: float, rows: int = 1) -> tuple[Figure, Any]:
    """Return a figure with a column of axes for each network; `height` is that of a panel over its width."""
    from matplotlib.figure import Figure

    columns = len(inspection.networks)
    figure = Figure((1.6 * PANEL * columns, 1.6 * PANEL * height * rows * 0.85), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _draw_edges(axes: Axes, places: Any, pairs: Any, colour: str) -> None:
    from matplotlib.collections import LineCollection

    axes.add_collection(LineCollection(places[pairs], colors=colour, linewidths=0.6, alpha=0.6, zorder=1))


def _draw_nodes(axes: Axes, places: Any, labels: Tensor) -> None:
    for number in sorted(set(labels.tolist())):
        colour, marker = _mark_of(number)
        own = places[(labels == number).numpy()]
        axes.plot(own[:, 0], own[:, 1], marker, color=colour, markersize=7, markeredgecolor="white", zorder=2)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)


def _mark_of(number: int) -> tuple[str, str]:
    """Return colour and marker of a class; together they differ for 56 classes."""
    return COLOURS[number % len(COLOURS)], STYLES[(number + number // len(COLOURS)) % len(STYLES)][1]


def _mark_classes(axes: Axes, inspection: Inspection) -> None:
    counts = inspection.labels.bincount(minlength=len(inspection.class_names)).numpy()
    ends = counts.cumsum()
    axes.set_yticks(ends - counts / 2 - 0.5, _class_labels(inspection))
    axes.set_xticks([])
    axes.tick_params(length=0)


def _class_labels(inspection: Inspection) -> list[str]:
    """Return the names of the classes as they can be drawn."""
    names = inspection.class_names
    short = [name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 3]}..." for name in names]
    return [wrapped(name, PANEL * 72 / 3) for name in short]


def _with_legend(figure: Figure, inspection: Inspection, lines: Sequence[tuple[str, str]] = ()) -> Figure:
    """Add a legend of the classes, and of lines by name and colour."""
    from matplotlib.lines import Line2D

    names = _class_labels(inspection)
    keys = [Line2D([], [], color=colour, label=name) for name, colour in lines]
    for number, name in enumerate(names):
        colour, marker = _mark_of(number)
        keys.append(Line2D([], [], color=colour, marker=marker, linestyle="", label=name))
    column = max(width_of(name, "small") for name in (*names, *(name for name, _ in lines))) + KEY
    columns = max(1, min(8, len(keys), int(72 * figure.get_figwidth() / column)))
    figure.legend(handles=keys, loc="outside lower center", ncols=columns)
    return figure
