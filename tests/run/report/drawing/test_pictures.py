"""The shared pictures: each is drawn as on a page, and shows the numbers that it was given."""

from __future__ import annotations

import io
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure as Canvas

from toolkit import run
from toolkit.run.report.drawing import plots

STEPS = np.arange(5)
SEEDS = np.stack([STEPS * 1.0, STEPS + 2.0, STEPS + 7.0])
P = run.pictures


def _canvas(figure: run.Figure) -> Canvas:
    """The figure on a canvas whose drawing must succeed as a PNG, and as SVG with the page's style."""
    assert plots.svg(figure, 0).startswith("<svg")
    canvas = Canvas(layout="constrained")
    figure.draw(canvas)
    canvas.savefig(io.BytesIO(), format="png")
    return canvas


def _legend(canvas: Canvas) -> list[str]:
    legend = canvas.axes[0].get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_curves_show_their_lines_and_references() -> None:
    lines = {"loss": P.Curve(STEPS, STEPS**2 + 1), "_twin": P.Curve(STEPS, STEPS + 1)}
    figure = P.curves(
        "T", "C.", lines, across={"best": 3.0}, down={"_stop": 2}, xlabel="step", yscale="log"
    )
    assert (figure.title, figure.caption, figure.wide) == ("T", "C.", False)
    (axes,) = (canvas := _canvas(figure)).axes
    assert [list(line.get_ydata()) for line in axes.lines[:3]] == [
        [1, 2, 5, 10, 17],
        [1, 2, 3, 4, 5],
        [3, 3],
    ]
    assert list(axes.lines[3].get_xdata()) == [2, 2]
    assert (axes.get_xlabel(), axes.get_yscale()) == ("step", "log")
    assert _legend(canvas) == ["loss", "best"]


def test_a_short_logarithmic_axis_has_numbers_that_can_be_read() -> None:
    """matplotlib writes `2 x 10^0`, `3 x 10^0`, `4 x 10^0` there, one over the other."""
    line = P.Curve([2, 3, 4, 8, 64], [1, 2, 3, 4, 5])
    (axes,) = _canvas(P.curves("T", "", {"a": line}, xscale="log")).axes
    written = [text.get_text() for text in axes.get_xticklabels()]
    assert [one for one in written if one in ("2", "5", "10", "20", "50")] == written[1:6]
    assert not any(text.get_text() for text in axes.get_xticklabels(minor=True))


def test_reference_lines_are_told_apart() -> None:
    line = P.Curve(STEPS, STEPS)
    figure = P.curves("T", "", {"a": line}, across={"b": 1.0, "c": 2.0}, down={"d": 1, "e": 2})
    (axes,) = _canvas(figure).axes
    styles = [one.get_linestyle() for one in axes.lines]
    assert styles == ["-", "--", "-.", ":", "-."]


def test_numbers_under_bars_are_short() -> None:
    (axes,) = _canvas(P.bars("T", "", {"a": 97.5}, xlim=(80.0, 100.0))).axes
    assert [text.get_text() for text in axes.get_xticklabels()][-1] == "100"


def test_steps_are_whole_numbers() -> None:
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    (figure,) = plots.curves({"run": rows})
    (axes,) = _canvas(figure).axes
    assert all(float(text.get_text()).is_integer() for text in axes.get_xticklabels())


def test_over_seeds_a_band_lies_around_the_mean() -> None:
    curve = P.over_seeds(STEPS, SEEDS, color="C2")
    (axes,) = _canvas(P.curves("T", "", {"loss": curve})).axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), STEPS + 3)
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0, 11)
    assert to_rgba(band.get_facecolor()[0][:3]) == to_rgba(axes.lines[0].get_color())


def test_whiskers_reach_from_low_to_high() -> None:
    curve = P.Curve(STEPS, STEPS + 1.0, STEPS + 0.5, STEPS + 3.0, whiskers=True)
    (axes,) = _canvas(P.curves("T", "", {"gain": curve})).axes
    (bars,) = axes.collections
    np.testing.assert_allclose(
        [s[:, 1] for s in bars.get_segments()], [[k + 0.5, k + 3] for k in STEPS]
    )


@pytest.mark.parametrize(
    ("legend", "labels"), [(None, []), ({}, ["a"]), ({"outside": True, "fontsize": 8}, ["a"])]
)
def test_a_legend_is_wanted_or_not(legend: Any, labels: list[str]) -> None:
    figure = P.curves("T", "", {"a": P.Curve(STEPS, STEPS)}, legend=legend)
    assert _legend(_canvas(figure)) == labels


def test_ticks_are_read_as_they_are_written() -> None:
    near_one = P.Curve(STEPS, 1 + 1e-6 * STEPS)
    canvas = _canvas(P.curves("T", "", {"ratio": near_one}))
    assert canvas.axes[0].yaxis.get_offset_text().get_text() == ""


def test_a_column_has_nan_where_a_row_has_no_number() -> None:
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3}]
    found = P.column(rows, "loss")
    assert found[0] == 2 and np.isnan(found[1:]).all()
    _canvas(P.curves("T", "", {"loss": P.Curve(P.column(rows, "step"), found)}))


def test_a_histogram_stacks_its_groups() -> None:
    groups = {"low": np.array([0.1, 0.2]), "high": np.array([[0.2], [0.9]])}
    figure = P.histogram("T", "", groups, [0, 0.5, 1], down={"_middle": 0.5}, ylabel="count")
    (axes,) = (canvas := _canvas(figure)).axes
    first, second = ([(p.get_y(), p.get_height()) for p in c] for c in axes.containers)
    assert first == [(0, 2), (0, 0)]
    assert second == [(2, 1), (0, 1)]
    assert sorted(_legend(canvas)) == ["high", "low"]


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 6, 1), (6, 6, 1), (7, 3, 3)])
def test_images_stand_in_a_grid_on_one_scale(count: int, columns: int, rows: int) -> None:
    made = [np.full((2, 3), k, float) for k in range(count)]
    made[0][0, 0] = np.nan
    titles = [f"number {k}" for k in range(count)]
    canvas = _canvas(P.images("T", "", made, titles=titles, columns=columns, scale="ink"))
    *grid, bar = canvas.axes
    assert len(grid) == rows * min(columns, count)
    shown = [axes for axes in grid if axes.images]
    assert [axes.get_title() for axes in shown] == titles
    assert {axes.images[0].get_clim() for axes in shown} == {(0, count - 1)} or count == 1
    assert bar.get_ylabel() == "ink"


def test_bars_bear_their_intervals() -> None:
    figure = P.bars(
        "T", "", {"slow": 3.0, "fast": 1.0}, intervals={"fast": (0.5, 2.0)}, label="seconds"
    )
    (axes,) = _canvas(figure).axes
    assert [bar.get_width() for bar in axes.patches] == [3, 1]
    assert axes.collections[0].get_segments()[0][:, 0].tolist() == [0.5, 2]
    assert axes.yaxis_inverted()  # the first name is at the top
    assert axes.get_xlabel() == "seconds"


def test_points_stand_over_their_names() -> None:
    groups = {"a": [1.0, 3.0], "one": [5.0]}
    figure = P.points("T", "", groups, colors={"a": "C3"}, sizes={"a": 1}, across={"_zero": 0})
    (axes,) = _canvas(figure).axes
    first, second, _ = axes.lines
    assert (first.get_color(), first.get_markersize(), second.get_markersize()) == ("C3", 1, 4)
    assert list(second.get_xdata()) == [1]
    means = [collection.get_segments()[0][0, 1] for collection in axes.collections]
    assert means == [2, 5]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "one"]


def test_matplotlib_waits_until_something_is_drawn() -> None:
    code = (
        "import sys\nfrom toolkit.run.report.drawing import pictures as P\n"
        "made = P.curves('T', '', {'a': P.Curve([0, 1], [1, 2])})\n"
        "print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_a_heat_map_shows_each_number_in_its_cell() -> None:
    values = [[1.0, np.nan], [-0.5, -0.001]]
    figure = P.heat_map("T", "C.", values, ["a", "b"], ["x", "y"], limits=(-1, 1), xlabel="layer")
    axes, _ = _canvas(figure).axes
    np.testing.assert_array_equal(axes.images[0].get_array().filled(np.nan), values)
    assert axes.images[0].get_clim() == (-1, 1)
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "1.00", (0, 1): "-0.50", (1, 1): "0.00"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_xlabel() == "layer"
    # Dark cells have white numbers, bright ones black.
    colors = {text.get_text(): text.get_color() for text in axes.texts}
    assert (colors["1.00"], colors["-0.50"]) == ("black", "white")
    bare, _ = _canvas(P.heat_map("T", "C.", values, ["a", "b"], ["x", "y"], written=None)).axes
    assert not bare.texts


def test_many_rows_get_room_for_their_names() -> None:
    names = [f"a rule with a long name {k}" for k in range(30)]
    for figure in (
        P.heat_map("T", "C.", np.eye(30), names, names, written=None),
        P.bars("T", "C.", dict.fromkeys(names, 1.0)),
    ):
        canvas = _canvas(figure)
        labels = [text.get_window_extent() for text in canvas.axes[0].get_yticklabels()]
        centers = sorted((box.y0, box.y1) for box in labels)
        assert all(below[1] <= above[0] + 1 for below, above in pairwise(centers))
