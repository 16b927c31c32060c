"""Figures: what is drawn where, that nothing is cut off, and the files they become."""

from __future__ import annotations

import math
import os
import random
import statistics
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from test_record import make_record

from graphkd.errors import UserError
from graphkd.report.figure_style import DPI, SIZES, WIDTH
from graphkd.report.figures import build_figures, write_figures
from graphkd.report.metrics import METRICS, value_of
from graphkd.report.record import Metrics, Record

T_OF_2 = 4.302652729749462
"""The 97.5 % quantile of Student's t with two degrees of freedom."""
LONG = "hkd_kd_with_every_part_of_it_switched_on_and_off_again_" * 5


def runs(variant: str, accuracies: list[float], **changes: Any) -> list[Record]:
    """Finished runs of one variant with these accuracies, seeds from 0."""
    fields = {"variant": variant, "identity": f"id-{variant}"} | changes
    return [make_record(seed=seed, test_top1_last=value, **fields) for seed, value in enumerate(accuracies)]


def swept(values: list[Any], **changes: Any) -> list[Record]:
    """Three runs for each value of the option builder.k; the mean of the one at place i is 90 + i."""
    return [
        record
        for place, value in enumerate(values)
        for record in runs(f"k_{value}", [89.0 + place, 90.0 + place, 91.0 + place],
                           **({"varied": {"builder.k": value}} | changes))
    ]  # fmt: skip


def draw(records: list[Record], **options: Any) -> Figure:
    """The only figure of these records."""
    ((_, figure),) = build_figures(records, **options)
    return figure


def axes_of(figure: Figure) -> Axes:
    """The only axes of a figure."""
    (axes,) = figure.axes
    return axes


def drawn(figure: Figure, kind: str) -> list[Line2D]:
    """What is drawn under a label, in order."""
    return [line for line in axes_of(figure).lines if line.get_label() == kind]


def points(figure: Figure, kind: str) -> list[tuple[list[float], list[float]]]:
    """Coordinates of the same."""
    return [tuple([float(number) for number in side] for side in line.get_data()) for line in drawn(figure, kind)]


def marks(figure: Figure, kind: str) -> list[tuple[float, float]]:
    """Coordinates of each single point under a label, sorted."""
    return sorted((x, y) for xs, ys in points(figure, kind) for x, y in zip(xs, ys, strict=True))


def row_labels(figure: Figure) -> list[str]:
    """Labels of the rows of a dot plot from top to bottom, in one line each."""
    texts = [label.get_text().replace("\n", "") for label in axes_of(figure).get_yticklabels()]
    return [text for _, text in sorted(zip(axes_of(figure).get_yticks(), texts, strict=True))]


def texts_beside(figure: Figure) -> list[Text]:
    """Texts outside the axes: titles, note and legend."""
    (legend,) = figure.legends
    return [*figure.texts, axes_of(figure).title, axes_of(figure)._left_title, legend.get_title(), *legend.get_texts()]


def texts_of(figure: Figure) -> list[str]:
    """The same, in one line each."""
    return [text.get_text().replace("\n", " ") for text in texts_beside(figure)]


def visible_texts(figure: Figure) -> list[Text]:
    """All texts that are drawn: no tick labels beyond the limits, no empty ones."""
    axes = axes_of(figure)
    found = [*texts_beside(figure), axes.xaxis.label]
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
        found += [label for place, label in ticks if low <= place <= high]
    return [text for text in found if text.get_text()]


def assert_nothing_is_cut_off(figure: Figure) -> None:
    """Every text lies inside the figure, none is below 9 points, and none overlaps another."""
    with rc_context({"text.hinting": "none"}):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        boxes = [(text.get_window_extent(canvas.get_renderer()), text) for text in visible_texts(figure)]
    width, height = figure.bbox.size
    for place, (box, text) in enumerate(boxes):
        assert text.get_fontsize() >= 9, text
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, (text, box)
        for other, beside in boxes[:place]:
            assert not box.padded(-1).overlaps(other.padded(-1)), (text, beside)


def test_a_dot_plot_shows_seeds_means_and_intervals() -> None:
    figure = draw(runs("kd", [90.0, 91.0, 95.0]) + runs("hkd", [80.0, 80.0, 83.0]), order=("kd", "hkd"))
    assert row_labels(figure) == ["kd (n=3)", "hkd (n=3)"]
    rows = sorted(axes_of(figure).get_yticks())
    assert marks(figure, "_mean") == [(81.0, rows[1]), (92.0, rows[0])]
    assert marks(figure, "_seed") == sorted(
        (value, rows[row]) for row, values in enumerate([[90, 91, 95], [80, 80, 83]]) for value in values
    )
    for (ends, _), values in zip(points(figure, "_bar"), [[90, 91, 95], [80, 80, 83]], strict=True):
        half = T_OF_2 * statistics.stdev(values) / math.sqrt(3)
        assert ends == pytest.approx([statistics.mean(values) - half, statistics.mean(values) + half])
    assert axes_of(figure).get_xlabel() == "test top-1, last epoch (%)"


def test_two_seeds_have_their_deviation_and_one_has_no_bar() -> None:
    figure = draw(runs("one", [90.0]) + runs("two", [90.0, 92.0]), order=("one", "two"))
    assert row_labels(figure) == ["one (n=1)", "two (n=2)"]
    ((ends, _),) = points(figure, "_bar")
    assert ends == pytest.approx([91 - math.sqrt(2), 91 + math.sqrt(2)])
    assert [value for value, _ in marks(figure, "_mean")] == [91.0]
    assert [value for value, _ in marks(figure, "_seed")] == [90.0, 90.0, 92.0]
    assert any("the bar the sample standard deviation (n=2 is too few" in text for text in texts_of(figure))


def test_a_deviation_looks_different_from_an_interval_and_the_note_says_so() -> None:
    figure = draw(runs("two", [90.0, 92.0]) + runs("x", [90.0, 91.0, 92.0]), order=("two", "x"))
    assert [bar.get_marker() for bar in drawn(figure, "_bar")] == ["", "|"]
    note = "the bar the 95 % interval of the mean; where n=2, the sample standard deviation, without ends."
    assert any(note in text for text in texts_of(figure))


def test_equal_seeds_do_not_hide_one_another() -> None:
    figure = draw(runs("kd", [90.0] * 5))
    FigureCanvasAgg(figure).draw()
    seeds = drawn(figure, "_seed")
    places = {tuple(line.get_transform().transform(line.get_xydata())[0].round(1)) for line in seeds}
    assert len(places) == 5


def test_the_order_and_then_names_from_the_top() -> None:
    records = [record for name in ("a", "b", "c", "d") for record in runs(name, [90.0])]
    random.Random(0).shuffle(records)
    figure = draw(records, order=("c", "unknown", "b"))
    assert row_labels(figure) == ["c (n=1)", "b (n=1)", "a (n=1)", "d (n=1)"]
    bottom, top = axes_of(figure).get_ylim()
    assert bottom > top


def test_the_baseline_is_a_line_and_named() -> None:
    records = runs("kd", [90.0, 91.0, 92.0]) + runs("hkd", [95.0, 95.0, 95.0])
    ((x, _),) = points(draw(records, baseline="kd"), "_baseline")
    assert x == [91.0, 91.0]
    assert any("Dashed line: mean of kd, the baseline." in text for text in texts_of(draw(records, baseline="kd")))
    assert [line.get_marker() for line in drawn(draw(records, baseline="kd"), "_mean")] == ["o", "D"]


@pytest.mark.parametrize("name", ["none", "kd", "empty"])
def test_a_baseline_that_is_no_single_row_with_a_value_draws_nothing(name: str) -> None:
    records = [
        *runs("kd", [90.0], identity="1", varied={"k": 4}), *runs("kd", [90.0], identity="2", varied={"k": 8}),
        *runs("empty", [math.nan]),
    ]  # fmt: skip
    figure = draw(records, baseline=name)
    assert drawn(figure, "_baseline") == []
    assert not any("baseline" in text for text in texts_of(figure))
    assert len(drawn(draw(records, baseline="kd (k=8)"), "_baseline")) == 1


@pytest.mark.parametrize("values", [["2", "4", "8"], [2, 4, 8], ["8", "2", "4"], ["2", 4.0, "8.0"]])
def test_numbers_become_points_of_a_line(values: list[Any]) -> None:
    figure = draw(swept(values), axis="builder.k")
    expected = sorted((float(value), 90.0 + place) for place, value in enumerate(values))
    ((x, y),) = points(figure, "_series")
    assert list(zip(x, y, strict=True)) == expected
    assert marks(figure, "_mean") == expected
    assert marks(figure, "_seed") == sorted((value, mean + step) for value, mean in expected for step in (-1, 0, 1))
    half = T_OF_2 / math.sqrt(3)
    for (x, ends), (value, mean) in zip(sorted(points(figure, "_bar")), expected, strict=True):
        assert (x, ends) == ([value, value], pytest.approx([mean - half, mean + half]))
    axes = axes_of(figure)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "4", "8"]
    assert axes.get_xlabel() == "builder.k"
    assert {"test top-1, last epoch (%)", "suite, large->small"} <= set(texts_of(figure))
    assert any("n=3 at each point." in text for text in texts_of(figure))


@pytest.mark.parametrize(
    ("values", "scale"),
    [(["1", "8"], "linear"), (["1", "8.1"], "log"), (["0", "100"], "linear"), (["-1", "100"], "linear"),
     (["0.001", "1000"], "log"), (["5"], "linear")],
)  # fmt: skip
def test_the_axis_is_logarithmic_from_a_factor_of_8(values: list[str], scale: str) -> None:
    axes = axes_of(draw(swept(values), axis="builder.k"))
    assert axes.get_xscale() == scale
    assert axes.get_xlabel() == ("builder.k (log scale)" if scale == "log" else "builder.k")
    low, high = axes.get_xlim()
    assert low < min(map(float, values))
    assert max(map(float, values)) < high


def test_variants_without_the_option_are_labelled_lines() -> None:
    others = runs("kd", [88.0, 88.5]) + runs("student", [80.0], varied={"builder.k": "removed"})
    others += runs("rkd", [87.0, 88.0, 89.0])
    figure = draw(swept(["2", "4"]) + others, axis="builder.k")
    assert sorted(y for _, y in points(figure, "_level")) == [[80.0, 80.0], [88.0, 88.0], [88.25, 88.25]]
    assert "rkd: 88.00 [85.52, 90.48] (n=3)" in texts_of(figure), "the interval, as its bar"
    assert {"student: 80.00 (n=1)", "kd: 88.25 ± 0.35 (n=2)"} <= set(texts_of(figure))
    assert [x for x, _ in marks(figure, "_mean")] == [2.0, 4.0]


def test_a_baseline_on_the_axis_is_a_point_and_a_line() -> None:
    figure = draw(swept(["2", "4"]), axis="builder.k", baseline="k_4")
    assert [y for _, y in points(figure, "_level")] == [[91.0, 91.0]]
    assert "k_4 (baseline)" in texts_of(figure)
    assert len(marks(figure, "_mean")) == 2


def test_points_that_vary_something_else_too_are_lines_of_their_own() -> None:
    records = []
    for place, method in enumerate(("kd", "hkd")):
        for fraction in ("0.25", "0.50", "0.75"):
            varied = {"objective": method, "data.train_fraction": fraction, "trainer.epochs": 30}
            accuracies = [value + 2 * place + float(fraction) for value in (90.0, 91.0, 92.0)]
            records += runs(f"{method}_{fraction}", accuracies, varied=varied)
    figure = draw(records, axis="data.train_fraction", order=("kd_0.25", "hkd_0.25"))
    assert points(figure, "_series") == [
        ([0.25, 0.5, 0.75], [91.25, 91.5, 91.75]),
        ([0.25, 0.5, 0.75], [93.25, 93.5, 93.75]),
    ]
    assert {"objective=kd", "objective=hkd"} <= set(texts_of(figure))
    kd, hkd = drawn(figure, "_series")
    assert kd.get_linestyle() != hkd.get_linestyle()
    assert {line.get_marker() for line in drawn(figure, "_mean")} == {"o", "s"}
    assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize("value", ["all", "", "nan", "inf", "[1,2]", None, True, [1], {"a": 1}, 10**400])
def test_values_that_are_no_numbers_make_a_dot_plot(value: Any) -> None:
    figure = draw(runs("a", [90.0], varied={"k": value}) + runs("b", [91.0]), axis="k")
    assert row_labels(figure) == ["a (n=1)", "b (n=1)"]


def test_an_axis_that_nothing_varies_makes_a_dot_plot() -> None:
    assert row_labels(draw(runs("a", [90.0]), axis="builder.k")) == ["a (n=1)"]


def test_the_numbers_of_seeds_are_told_where_they_differ() -> None:
    records = [record for record in swept(["2", "4", "8"]) if (record.variant, record.seed) != ("k_4", 2)]
    assert any("n=3 at each point, but n=2 for k_4." in text for text in texts_of(draw(records, axis="builder.k")))


def test_values_that_are_missing_or_not_finite_are_not_drawn() -> None:
    records = runs("kd", [90.0, math.nan, 92.0]) + runs("hkd", [math.inf])
    records += runs("crd", [90.0], metrics=Metrics())
    figure = draw(records, order=("kd", "hkd", "crd"))
    assert row_labels(figure) == ["kd (n=2)", "hkd (n=0)", "crd (n=0)"]
    assert [value for value, _ in marks(figure, "_seed")] == [90.0, 92.0]
    assert_nothing_is_cut_off(figure)


def test_points_without_values_are_told() -> None:
    records = swept(["2", "4"]) + runs("k_8", [math.nan], varied={"builder.k": "8"})
    figure = draw(records, axis="builder.k")
    assert [label.get_text() for label in axes_of(figure).get_xticklabels()] == ["2", "4"]
    assert any("but n=0 for k_8." in text for text in texts_of(figure))


def test_percent_axes_end_near_100_whatever_the_interval() -> None:
    low, high = axes_of(draw(runs("kd", [10.0, 99.0, 100.0]))).get_xlim()
    assert -6 < low < 0
    assert 100 < high < 106


@pytest.mark.parametrize("metric", list(METRICS))
def test_every_column_of_a_table_can_be_drawn_under_its_label(metric: str) -> None:
    figure = draw(runs("kd", [0.5, 0.5], **({} if metric == "test_top1_last" else {metric: 0.5})), metric=metric)
    assert [value for value, _ in marks(figure, "_mean")] == [0.5]
    assert axes_of(figure).get_xlabel() == METRICS[metric].label + " (nats)" * (metric == "test_nll_last")


def test_a_diagnostic_of_one_term_can_be_drawn() -> None:
    metrics = Metrics(test_top1_last=90.0, diagnostics={"first.overlap": 0.25, "second.overlap": 0.75})
    figure = draw([make_record(metrics=metrics)], metric="second.overlap")
    assert axes_of(figure).get_xlabel() == "overlap of the two graphs, second"
    assert value_of(make_record(metrics=metrics), "second.overlap") == 0.75
    assert value_of(make_record(metrics=metrics), "overlap") == 0.25


def test_a_wrong_metric_is_named() -> None:
    with pytest.raises(UserError, match=r"there is no metric 'test_top_last'; did you mean 'test_top"):
        build_figures(runs("kd", [90.0]), metric="test_top_last")


@pytest.mark.parametrize("axis", [None, "builder.k"])
def test_the_longest_names_are_not_cut_off(axis: str | None) -> None:
    names = {"study": LONG, "pair": "W" * 300, "data": LONG}
    records = swept(["2", "4", "4.01", "32"], **names) + runs(LONG, [90.1, 90.2], **names)
    records += runs("W" * 300, [90.2], **names) + runs("$x_{$ \\frac", [90.15], **names)
    figure = draw(records, axis=axis, baseline=LONG)
    assert_nothing_is_cut_off(figure)
    shown = row_labels(figure) if axis is None else [text.replace(" ", "") for text in texts_of(figure)]
    assert any(LONG in text for text in shown)
    assert any("$x_{$" in text for text in shown)


@pytest.mark.filterwarnings("error")
def test_signs_that_the_font_lacks_are_drawn_as_escapes(tmp_path: Path) -> None:
    records = runs("日本 50 % a_b $x^2$", [90.0, 91.0], pair="語->b")
    shown = [text.get_text() for text in draw(records).findobj(Text)]
    assert any(r"\u65e5\u672c 50 % a_b $x^2$ (n=2)" in text.replace("\n", " ") for text in shown)
    assert any(r"\u8a9e->b" in text for text in shown)
    assert len(write_figures(build_figures(records), tmp_path)) == 2


def test_a_long_option_is_not_cut_off() -> None:
    option = "objective.hkd." + "very_long_option_" * 9
    records = [*runs("a", [90.0], varied={option: "1"}), *runs("b", [91.0], varied={option: "1000"})]
    figure = draw(records, axis=option)
    assert axes_of(figure).get_xlabel().replace("\n", "") == f"{option} (log scale)"
    assert_nothing_is_cut_off(figure)


@settings(max_examples=8, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abcdefgh"),
        st.tuples(st.lists(st.floats(0, 100), min_size=1, max_size=6), st.none() | st.floats(-1e6, 1e6)),
        min_size=1,
    ),
    st.sampled_from([None, "k"]),
)
def test_whatever_is_recorded_is_inside_the_figure(
    found: dict[str, tuple[list[float], float | None]], axis: str | None
) -> None:
    records = [
        record
        for name, (values, k) in found.items()
        for record in runs(name, values, varied={} if k is None else {"k": k})
    ]
    figure = draw(records, axis=axis, baseline="a")
    assert_nothing_is_cut_off(figure)
    axes = axes_of(figure)
    for line in drawn(figure, "_seed"):
        places = axes.transAxes.inverted().transform(line.get_transform().transform(line.get_xydata()))
        assert ((places >= 0) & (places <= 1)).all()
    assert len(marks(figure, "_seed")) == sum(
        len(values) for values, k in found.values() if axis is None or not points(figure, "_series") or k is not None
    )


def test_files_are_named_as_tables_and_as_wide_as_a_readme(tmp_path: Path) -> None:
    records = runs("hkd", [90.0]) + runs("hkd", [91.0], study="two") + runs("hkd", [92.0], pair="a->b")
    paths = write_figures(build_figures(records), tmp_path / "new" / "figures")
    assert [path.name for path in paths] == [
        "suite_a-b.png", "suite_a-b.svg", "suite_large-small.png", "suite_large-small.svg",
        "two_large-small.png", "two_large-small.svg",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "new" / "figures").iterdir()) == sorted(p.name for p in paths)
    for path in paths[::2]:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert struct.unpack(">I", content[16:20]) == (900,) == (WIDTH / 72 * DPI,)
    assert all(b"</svg>" in path.read_bytes() for path in paths[1::2])


def test_data_sets_have_their_own_figures() -> None:
    records = runs("hkd", [90.0], data="digits") + runs("hkd", [91.0], data="cifar100") + runs("hkd", [91.0])
    figures = dict(build_figures(records))
    assert list(figures) == [f"suite_large->small_{data}" for data in ("unknown", "cifar100", "digits")]
    assert any("Data set: digits." in text for text in texts_of(figures["suite_large->small_digits"]))


def test_names_that_become_the_same_stay_apart(tmp_path: Path) -> None:
    records = runs("hkd", [90.0], study="A/b") + runs("hkd", [91.0], study="a b") + runs("hkd", [91.0], study="..")
    stems = [path.stem for path in write_figures(build_figures(records), tmp_path)[::2]]
    assert stems == ["_large-small", "A-b_large-small", "a-b_large-small-2"]


@pytest.mark.parametrize("axis", [None, "builder.k"])
def test_the_same_records_give_the_same_bytes(tmp_path: Path, axis: str | None) -> None:
    records = swept(["2", "4", "32"]) + runs("kd", [90.0, 90.5])
    first = write_figures(build_figures(records, axis=axis), tmp_path / "first")
    random.Random(1).shuffle(records)
    with rc_context({"font.size": 20, "svg.hashsalt": None}):
        second = write_figures(build_figures(records, axis=axis), tmp_path / "second")
        assert rcParams["font.size"] == 20
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert b"<dc:date>" not in first[1].read_bytes()


@pytest.mark.parametrize(
    "records",
    [[], runs("kd", [90.0], status="failed"), runs("kd", [math.nan]), runs("kd", [90.0], kind="teacher")],
)
def test_nothing_is_written_where_there_is_nothing_to_draw(tmp_path: Path, records: list[Record]) -> None:
    assert write_figures(build_figures(records), tmp_path / "figures") == []
    assert not (tmp_path / "figures").exists()


def test_a_file_in_the_way_of_the_folder_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        write_figures(build_figures(runs("kd", [90.0])), tmp_path / "figures")


def test_no_display_no_pyplot_and_no_matplotlib_before_it_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys; from graphkd.report.figures import build_figures, write_figures; "
        "assert not {'matplotlib', 'torch', 'dgl'} & set(sys.modules); "
        "from graphkd.report.record import read; "
        f"paths = write_figures(build_figures([read({str(tmp_path / 'record.json')!r})]), {str(tmp_path)!r}); "
        "assert len(paths) == 2; assert not {'matplotlib.pyplot', 'torch', 'dgl'} & set(sys.modules)"
    )
    (tmp_path / "record.json").write_text(make_record().to_json())
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=Path(__file__).parents[2])


def test_the_smallest_text_is_9_points() -> None:
    assert min(SIZES.values()) >= 9
