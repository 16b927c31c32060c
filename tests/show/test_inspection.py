"""What is read from a finished run, and what its pictures show."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.collections import LineCollection
from PIL import Image

import graphkd
from graphkd import BUILDERS, UserError
from graphkd.diagnostics import sample_edges
from graphkd.run import parse, run
from graphkd.show import Inspection, NetworkView, draw_pictures, inspect
from graphkd.show.pictures import RIGHT, draw_graphs, draw_relations, draw_training


@pytest.fixture
def finished(tiny_config: Callable[..., dict[str, Any]]) -> Callable[..., Path]:
    """Trains a run with these changes and returns its folder."""

    def train(changes: dict[str, Any] | None = None) -> Path:
        return run(parse(tiny_config(changes))).folder

    return train


def test_the_students_outputs_are_those_of_its_own_test_images(finished: Callable[..., Path]) -> None:
    folder = finished()
    seen = inspect(folder, classes=3, per_class=5, drawn=3)
    assert seen.class_names == ("0", "4", "9")
    assert seen.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert seen.drawn.tolist() == [0, 1, 2, 5, 6, 7, 10, 11, 12]
    loaded = graphkd.load(folder)
    batches = list(loaded.dataset.eval_batches("test", 512, "cpu"))
    images = batches[0].images[batches[0].labels == 4][:5]
    teacher, student = seen.networks
    assert (teacher.name, student.name) == ("teacher", "student")
    with torch.no_grad():
        assert torch.allclose(student.logits[5:10], loaded.student(images).logits, atol=1e-5)
    assert torch.allclose(student.embedding.norm(dim=1), torch.ones(15))


@pytest.mark.parametrize("builder", BUILDERS.names())
def test_every_builders_graph_can_be_drawn(builder: str, finished: Callable[..., Path]) -> None:
    changes = {"builder": {"name": builder}, "objective.hkd.bank.kind": "full"}
    seen = inspect(finished(changes), classes=3, per_class=5, drawn=4)
    assert seen.builder == builder
    assert all(view.graph.num_targets == 12 for view in seen.networks)
    assert len(draw_graphs(seen).axes) == 2


def test_a_graph_has_as_many_images_as_its_builder_needs(finished: Callable[..., Path]) -> None:
    seen = inspect(finished({"builder.k": 10}), classes=2, per_class=20, drawn=2)
    assert seen.drawn.tolist() == [0, 1, 2, 3, 4, 20, 21, 22, 23, 24]


def test_a_run_without_a_graph_is_drawn_with_knn_and_without_a_teacher_alone(finished: Callable[..., Path]) -> None:
    seen = inspect(finished({"objective": {"ce": {"name": "ce"}}}), classes=2, per_class=3, drawn=2)
    assert seen.builder == "knn"
    assert [view.name for view in seen.networks] == ["student"]
    assert len(draw_graphs(seen).axes) == 1


def test_a_run_whose_data_and_results_have_moved_is_drawn(finished: Callable[..., Path], tmp_path: Path) -> None:
    source = tmp_path / "images"
    for split, place in itertools.product(("train", "test"), range(12)):
        (source / split / f"{place % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (20 * place, 100, 50)).save(source / split / f"{place % 2}" / f"{place}.png")
    folder = finished({"data": {"name": "folder", "root": str(source), "image_size": 16}})
    moved = source.rename(tmp_path / "elsewhere")
    results = folder.parents[3].rename(tmp_path / "kept")
    seen = inspect(results / folder.relative_to(tmp_path / "results"), {"root": str(moved)}, per_class=5, drawn=5)
    assert [view.name for view in seen.networks] == ["teacher", "student"]


def test_a_term_without_a_graph_need_not_be_one_of_this_version(finished: Callable[..., Path]) -> None:
    folder = finished({"objective": {"ce": {"name": "ce"}, "mlkd": {"name": "mlkd", "mask": "none"}}})
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("mask: none", "mask: scale"))
    assert inspect(folder, classes=2, per_class=5, drawn=2).builder == "knn"


def test_weights_to_start_from_may_be_gone(finished: Callable[..., Path], tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    shutil.copy(finished() / "student.safetensors", start)
    folder = finished({"student.checkpoint": str(start)})
    start.unlink()
    assert len(inspect(folder, classes=2, per_class=5, drawn=5).networks) == 2


def test_data_of_other_classes_are_refused(finished: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="has 10 classes, but the data has 2"):
        inspect(finished(), {"classes": [0, 1]})


def test_any_class_name_can_be_drawn(finished: Callable[..., Path], recwarn: pytest.WarningsRecorder) -> None:
    seen = inspect(finished(), classes=5, per_class=5, drawn=2)
    names = ("$a^{", "_hidden", "\u65e5\u672c", "x" * 300, "two\nlines")
    seen = dataclasses.replace(seen, class_names=names)
    for _, figure in draw_pictures(seen):
        figure.canvas.draw()
    shown = [text.get_text() for text in draw_graphs(seen).legends[0].get_texts()]
    assert shown[:2] == ["edge within a class", "edge between classes"]
    assert len(shown[2:]) == len(names)
    assert [str(each.message) for each in recwarn] == []


def test_edges_within_a_class_are_green(finished: Callable[..., Path]) -> None:
    seen = inspect(finished({"builder": {"name": "label_aware"}}), classes=3, per_class=5, drawn=4)
    for axes in draw_graphs(seen).axes:
        wrong, right = (part for part in axes.collections if isinstance(part, LineCollection))
        assert len(wrong.get_segments()) == 0
        assert len(right.get_segments()) == 3 * 4 * 3
        assert right.get_color()[0][:3] == pytest.approx(torch.tensor([0, 0x9E, 0x73]).div(255).tolist()), RIGHT
        assert "100% of 36 edges" in axes.get_title()


@pytest.mark.parametrize("builder", ["complete", "virtual", "bank_knn"])
def test_edges_that_the_training_left_out_are_not_drawn(builder: str, finished: Callable[..., Path]) -> None:
    folder = finished({"builder": {"name": builder}, "objective.hkd.bank.kind": "full"})
    whole = inspect(folder, classes=3, per_class=5, drawn=4)
    p = whole.networks[1].logits[whole.drawn].double().softmax(1)
    entropy = -(p * p.log()).sum(1)
    share = round(float(entropy.median()) / math.log(10), 3)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("prune_unreliable: null", f"prune_unreliable: {share}"))
    seen = inspect(folder, classes=3, per_class=5, drawn=4)
    assert f"({builder}, pruned at {share})" in draw_graphs(seen).axes[0].get_title()
    for view, before in zip(seen.networks, whole.networks, strict=True):
        edges, all_edges = (edges_of(each) for each in (view, before))
        assert 0 < len(edges) < len(all_edges)
        if builder != "virtual":  # whose support rows are other images
            assert edges == {(j, i) for j, i in all_edges if entropy[j] + entropy[i] <= share * 2 * math.log(10)}


def edges_of(view: NetworkView) -> set[tuple[int, int]]:
    sources, targets = sample_edges(view.graph, torch.arange(view.graph.num_targets))
    return set(zip(sources.tolist(), targets.tolist(), strict=True))


def test_a_student_that_trained_on_the_teachers_graph_is_drawn_with_it(finished: Callable[..., Path]) -> None:
    teacher, student = inspect(finished({"objective.hkd.graphs_from": "teacher"}), classes=3, per_class=8).networks
    own = inspect(finished(), classes=3, per_class=8).networks
    assert torch.equal(student.graph.adjacency, teacher.graph.adjacency)
    assert torch.equal(own[0].graph.adjacency, teacher.graph.adjacency)
    assert not torch.equal(own[1].graph.adjacency, teacher.graph.adjacency)


def test_relations_are_cosines(finished: Callable[..., Path]) -> None:
    seen: Inspection = inspect(finished(), classes=2, per_class=4, drawn=2)
    assert [name for name, _ in draw_pictures(seen)] == ["graphs", "relations", "embeddings"]
    axes = draw_relations(seen).axes
    shown = torch.tensor(axes[1].images[0].get_array().data)
    student = seen.networks[1].embedding
    expected = torch.tensor([[torch.dot(one, other) for other in student] for one in student])
    assert torch.allclose(shown, expected, atol=1e-6)


def test_the_training_is_drawn_from_the_diagnostics_that_there_are() -> None:
    from graphkd.show.pictures import _curves, draw_training

    epochs = [{"epoch": 1, "diagnostics": {"hkd.overlap": None, "hkd.teacher_homophily": 0.4}}, {"epoch": 2}]
    curves = _curves(epochs)
    assert curves == {"teacher_homophily": [(1, 0.4)]}
    (axes,) = draw_training(curves).axes
    assert axes.lines[0].get_xydata().tolist() == [[1, 0.4]]


@pytest.mark.parametrize("with_teacher", [True, False])
@pytest.mark.parametrize("names", [
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse"],
    [f"a class with a name of many letters {number}" for number in range(8)],
    ["a", "b"],
])  # fmt: skip
def test_the_legend_of_classes_is_inside_the_picture(
    finished: Callable[..., Path], names: list[str], with_teacher: bool
) -> None:
    changes: dict[str, Any] = {} if with_teacher else {"objective": {"ce": {"name": "ce", "weight": 1.0}}}
    seen = inspect(finished(changes), classes=len(names), per_class=4, drawn=2)
    figure = draw_graphs(dataclasses.replace(seen, class_names=tuple(names)))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    inside, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= inside.x0 < inside.x1 <= whole.x1
    assert whole.y0 <= inside.y0 < inside.y1 <= whole.y1


def test_a_training_of_one_epoch_is_seen() -> None:
    figure = draw_training({"overlap": [(1, 0.5)], "teacher_homophily": [(1, 0.2)]})
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert all(line.get_marker() not in (None, "None") for line in axes.lines)
    assert all(float(text.get_text().replace("\N{MINUS SIGN}", "-")).is_integer() for text in axes.get_xticklabels())
