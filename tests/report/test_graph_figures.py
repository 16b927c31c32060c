"""The figure of graphs against accuracy, and graphs as columns of tables."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
from test_record import make_record

from graphkd.report.figures import write_figures
from graphkd.report.graph_figures import build_graph_figures
from graphkd.report.metrics import value_of
from graphkd.report.record import Record


def explained(variant: str, homophily: float, accuracies: list[float]) -> list[Record]:
    """Finished runs of a variant whose graphs have a homophily, and embeddings that agree more from seed to seed."""
    return [
        make_record(
            variant=variant, identity=f"id-{variant}", seed=seed, test_top1_last=accuracy,
            diagnostics={"hkd.teacher_homophily": homophily, "hkd.alignment": 0.1 * seed, "hkd.overlap": None},
        )
        for seed, accuracy in enumerate(accuracies)
    ]  # fmt: skip


RUNS = [
    *explained("knn", 0.5, [60.0, 62.0, 64.0]),
    *explained("threshold", 0.9, [70.0, 72.0, 74.0]),
    *explained("random", 0.1, [50.0, 50.0, 50.0]),
]


def test_a_diagnostic_is_found_by_the_last_part_of_its_name() -> None:
    (record, *_) = RUNS
    assert value_of(record, "teacher_homophily") == 0.5
    assert value_of(record, "overlap") is None
    assert value_of(make_record(), "teacher_homophily") is None


def test_each_variant_is_a_point_of_each_panel_that_has_values() -> None:
    ((name, figure),) = build_graph_figures(RUNS, order=["random", "knn"])
    assert name.endswith("_graphs")
    homophily, alignment = figure.axes
    assert homophily.get_xlabel() == "homophily of the teacher's graph"
    assert alignment.get_xlabel().replace("\n", " ") == "cosine similarity of student and teacher embeddings"
    means = next(line for line in homophily.lines if len(line.get_xdata()) == 3)
    assert list(zip(means.get_xdata(), means.get_ydata(), strict=True)) == [(0.1, 50.0), (0.5, 62.0), (0.9, 72.0)]
    numbers = {text.get_text(): text.xy for text in homophily.texts}
    assert sorted(numbers) == ["1", "2", "3"]
    assert [numbers[number][1] for number in ("1", "2", "3")] == [50.0, 62.0, 72.0]
    heights = sorted(text.xy[1] for text in alignment.texts)
    assert len(set(heights)) == 3


def test_a_diagnostic_that_two_variants_have_makes_no_panel() -> None:
    of_two = [
        make_record(variant=variant, identity=variant, test_top1_last=60.0, diagnostics={"hkd.overlap": 0.4})
        for variant in ("first", "second")
    ]
    ((_, figure),) = build_graph_figures([*RUNS, *of_two])
    assert len(figure.axes) == 2


@pytest.mark.parametrize("variants", [14, 60])
@pytest.mark.parametrize("accuracies", [[60.0, 61.0, 62.0], [0.0, 0.1, 0.2], [99.0, 100.0, 100.0]])
def test_numbers_of_many_equal_variants_stay_inside_the_panel(variants: int, accuracies: list[float]) -> None:
    many = [record for number in range(variants) for record in explained(f"v{number:02}", 0.5, accuracies)]
    ((_, figure),) = build_graph_figures(many)
    figure.draw_without_rendering()
    for axes in figure.axes:
        frame = axes.get_window_extent()
        places = sorted(text.get_window_extent().y0 for text in axes.texts)
        assert len(places) == variants
        assert frame.y0 <= places[0] <= places[-1] <= frame.y1
        assert min(after - before for before, after in itertools.pairwise(places)) > 9, "they can be read"
        left, right = axes.get_xlim()
        assert left < 0.5 < right if axes is figure.axes[0] else left < 0.1 < right, "not at the edge"


def test_bars_end_where_percent_do() -> None:
    ((_, figure),) = build_graph_figures([
        *explained("low", 0.5, [0.0, 0.0, 3.0]), *explained("mid", 0.6, [50.0, 50.1, 50.2]),
        *explained("high", 0.7, [97.0, 100.0, 100.0]),
    ])  # fmt: skip
    low, high = figure.axes[0].get_ylim()
    assert -6 < low < 0 < 100 < high < 106


def test_too_few_variants_make_no_figure() -> None:
    plain = [make_record(variant="kd", identity="kd")]
    assert build_graph_figures([*RUNS[:6], *plain]) == []


def test_the_figure_is_written(tmp_path: Path) -> None:
    files = write_figures(build_graph_figures(RUNS), tmp_path)
    assert [file.suffix for file in files] == [".png", ".svg"]
    assert all(file.stat().st_size > 1000 for file in files)


def test_the_name_is_that_of_the_table() -> None:
    others = [make_record(variant="kd", identity="kd", data="cifar10")]
    ((name, _),) = build_graph_figures([*(dataclasses.replace(run, data="digits") for run in RUNS), *others])
    assert name == "suite_large->small_digits_graphs"


@pytest.mark.parametrize("metric", ["test_top1_last", "test_nll_last"])
def test_another_metric_is_the_vertical_axis(metric: str) -> None:
    ((_, figure),) = build_graph_figures(RUNS, metric=metric)
    assert ("NLL" in figure.axes[0].get_ylabel()) == (metric == "test_nll_last")


@pytest.mark.parametrize(
    ("seeds", "said"),
    [(1, "over its seeds."), (2, "n=2 is too few"), (3, "over its seeds, its bar the 95 % interval of the mean.")],
)
def test_the_note_tells_only_of_bars_that_there_are(seeds: int, said: str) -> None:
    runs = [run for name in "abc" for run in explained(name, ord(name), [60.0, 61.0, 62.0][:seeds])]
    ((_, figure),) = build_graph_figures(runs)
    (legend,) = figure.legends
    text = legend.get_title().get_text().replace("\n", " ")
    assert said in text
    assert ("n=2" in text) == (seeds == 2)


def test_runs_without_diagnostics_do_not_count() -> None:
    other = make_record(variant="knn", identity="id-knn", seed=9, test_top1_last=99.0)
    ((_, figure),) = build_graph_figures([*RUNS, other])
    (legend,) = figure.legends
    assert "knn (n=3)" in legend.get_title().get_text()
