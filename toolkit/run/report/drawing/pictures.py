"""The pictures that experiments share: curves, histograms, images, bars, points, tables in colors.

Each function returns a `Figure` for the list that an experiment's `figures` returns. Nothing is drawn, and
matplotlib is not imported, before the report is made. What is missing here an experiment draws itself: a
`Figure` takes any function of an empty matplotlib figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from toolkit.run.experiment.interface import Figure
from toolkit.run.report.drawing.heat_map import heat_map, make_room

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = [
    "Curve",
    "bars",
    "column",
    "curves",
    "heat_map",
    "histogram",
    "images",
    "over_seeds",
    "points",
]


def __dir__() -> list[str]:
    return sorted(__all__)


NOTHING: Mapping[str, Any] = MappingProxyType({})
REFERENCE = "0.5"  # matplotlib's name of the middle grey, seen on white and on black


class Curve(NamedTuple):
    """A line of `K` points, with an interval around each of them where `low` and `high` are given."""

    x: Any  # [K]
    y: Any  # [K]
    low: Any = None  # [K], the lower end of each interval
    high: Any = None  # [K]
    whiskers: bool = False  # intervals as bars on the points, in place of a band along the line
    look: Mapping[str, Any] = (
        NOTHING  # matplotlib's words for a line: color, linestyle, marker, ...
    )


def over_seeds(x: Any, values: Any, **look: Any) -> Curve:
    """The mean over seeds, in a band from the lowest to the highest.

    Args:
      x: [K].
      values: [seeds, K].
      look: matplotlib's words for the line.
    """
    values = np.asarray(values)
    return Curve(x, values.mean(axis=0), values.min(axis=0), values.max(axis=0), look=look)


def column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """A metric of all rows; NaN, which matplotlib leaves out, where a row lacks it or it is not finite."""
    found = [row.get(name) for row in rows]
    return [float("nan") if value is None else value for value in found]


def curves(
    title: str,
    caption: str,
    lines: Mapping[str, Curve],
    *,
    across: Mapping[str, float] = NOTHING,
    down: Mapping[str, float] = NOTHING,
    wide: bool = False,
    legend: Mapping[str, Any] | None = NOTHING,
    **axes: Any,
) -> Figure:
    """Lines by their labels.

    Args:
      title, caption, wide: of the figure.
      lines: a label that begins with `_` stands in no legend.
      across: grey reference lines by label, each at a height; the first dashed, the next dash-dotted.
      down: grey reference lines by label, each at a place along x; the first dotted, the next dash-dotted.
      legend: matplotlib's words for the legend; `outside=True` puts it to the right of the axes, `None`
        draws none.
      axes: what `Axes.set` takes, for example `xlabel="step", yscale="log"`.
    """

    def draw(figure: Canvas) -> None:
        area = figure.subplots()
        for label, line in lines.items():
            _curve(area, label, line)
        _finish(area, across, down, legend, axes)

    return Figure(title, caption, draw, wide)


def histogram(
    title: str,
    caption: str,
    groups: Mapping[str, Any],
    bins: Any = 40,
    *,
    down: Mapping[str, float] = NOTHING,
    wide: bool = False,
    **axes: Any,
) -> Figure:
    """Counts of values, the groups stacked on one another.

    Args:
      groups: arrays of any shape by label; a label that begins with `_` stands in no legend.
      bins: how many, or their edges.
      down: see `curves`.
      title, caption, wide, axes: see `curves`.
    """

    def draw(figure: Canvas) -> None:
        area = figure.subplots()
        values = [np.ravel(each) for each in groups.values()]
        area.hist(values, bins=bins, stacked=True, label=list(groups))
        _finish(area, NOTHING, down, NOTHING, axes)

    return Figure(title, caption, draw, wide)


def images(
    title: str,
    caption: str,
    pictures: Sequence[Any],
    *,
    titles: Sequence[str] = (),
    columns: int = 6,
    limits: tuple[float, float] | None = None,
    cmap: str = "gray_r",
    scale: str = "",
    wide: bool = False,
) -> Figure:
    """Images in a grid, all on one scale of colors.

    Args:
      title, caption, wide: see `curves`.
      pictures: `[height, width]` each, in reading order.
      titles: one above each image, or none.
      columns: images in a row.
      limits: values of the first and the last color; by default the least and the largest value of all.
      cmap: matplotlib's name of the colors.
      scale: label of a color bar; without it there is none.
    """

    def draw(figure: Canvas) -> None:
        values = [np.asarray(picture) for picture in pictures]
        low, high = limits or (_nan(np.nanmin, values), _nan(np.nanmax, values))
        across = min(columns, len(values))
        grid = figure.subplots(-(-len(values) // across), across, squeeze=False)
        for area in grid.flat:
            area.set(xticks=[], yticks=[])
            area.spines[:].set_visible(False)
        for area, value in zip(grid.flat, values, strict=False):
            drawn = area.imshow(value, cmap=cmap, vmin=low, vmax=high)
        for area, words in zip(grid.flat, titles, strict=False):
            area.set_title(words, fontsize=9, fontweight="normal")
        if scale:
            figure.colorbar(drawn, ax=grid, label=scale)

    return Figure(title, caption, draw, wide)


def bars(
    title: str,
    caption: str,
    values: Mapping[str, float],
    *,
    intervals: Mapping[str, tuple[float, float]] = NOTHING,
    label: str = "",
    wide: bool = False,
    **axes: Any,
) -> Figure:
    """A bar a name, from the top down, and an interval on each where one is known.

    Args:
      values: lengths of the bars by name.
      intervals: `(low, high)` by name.
      label: of the values.
      title, caption, wide, axes: see `curves`.
    """

    def draw(figure: Canvas) -> None:
        make_room(figure, len(values))
        area = figure.subplots()
        area.barh(list(values), list(values.values()))
        for name, (low, high) in intervals.items():
            place = list(values).index(name)
            look: Any = {"color": REFERENCE, "linewidth": 1.5}
            area.errorbar(
                values[name], place, xerr=_whiskers(values[name], low, high), capsize=3, **look
            )
        area.invert_yaxis()
        area.grid(axis="y", visible=False)
        area.set(xlabel=label, **axes)
        if area.get_xscale() == "linear":
            # 100 and not 100.0: a long number under the last tick would be cut off by the edge.
            area.xaxis.set_major_formatter("{x:g}")

    return Figure(title, caption, draw, wide)


def points(
    title: str,
    caption: str,
    groups: Mapping[str, Any],
    *,
    colors: Mapping[str, str] = NOTHING,
    sizes: Mapping[str, float] = NOTHING,
    means: bool = True,
    across: Mapping[str, float] = NOTHING,
    wide: bool = False,
    **axes: Any,
) -> Figure:
    """A column of points for each group, spread sideways to tell them apart, and its mean as a grey line.

    Args:
      groups: `[K]` values by name; a name may have several lines.
      colors, sizes: of the points, by name; by default a color for each group, and 4.
      means: whether to draw them.
      title, caption, across, wide, axes: see `curves`.
    """

    def draw(figure: Canvas) -> None:
        area = figure.subplots()
        for place, (name, values) in enumerate(groups.items()):
            values = np.ravel(values)
            spread = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else 0.0
            look: Any = {"color": colors.get(name), "markersize": sizes.get(name, 4)}
            area.plot(place + spread, values, "o", alpha=0.8, **look)
            if means:
                area.hlines(values.mean(), place - 0.3, place + 0.3, color=REFERENCE, linewidth=1.5)
        area.set_xticks(range(len(groups)), list(groups), fontsize=8)
        area.grid(axis="x", visible=False)
        _finish(area, across, NOTHING, None, axes)

    return Figure(title, caption, draw, wide)


def _curve(area: Axes, label: str, line: Curve) -> None:
    x, y = np.asarray(line.x), np.asarray(line.y)
    look: Any = dict(line.look)
    if line.low is None or line.high is None:
        area.plot(x, y, label=label, **look)
    elif line.whiskers:
        low, high = np.asarray(line.low), np.asarray(line.high)
        area.errorbar(x, y, yerr=_whiskers(y, low, high), label=label, **look)
    else:
        (drawn,) = area.plot(x, y, label=label, **look)
        area.fill_between(x, line.low, line.high, color=drawn.get_color(), alpha=0.18, linewidth=0)


def _whiskers(middle: Any, low: Any, high: Any) -> np.ndarray:
    """`[2, K]`: matplotlib asks how far an interval reaches to both sides, not where it ends."""
    return np.stack([np.atleast_1d(middle - low), np.atleast_1d(high - middle)])


def _finish(
    area: Axes,
    across: Mapping[str, float],
    down: Mapping[str, float],
    legend: Mapping[str, Any] | None,
    axes: Mapping[str, Any],
) -> None:
    # Not at the top: matplotlib is imported only when something is drawn.
    from toolkit.run.report.drawing import log_axis

    look: Any = {"color": REFERENCE, "linewidth": 1}
    for (label, place), style in zip(across.items(), cycle(("--", "-.")), strict=False):
        area.axhline(place, linestyle=style, label=label, **look)
    for (label, place), style in zip(down.items(), cycle((":", "-.")), strict=False):
        area.axvline(place, linestyle=style, label=label, **look)
    area.set(**axes)
    log_axis.readable(area.xaxis)
    log_axis.readable(area.yaxis)
    if area.get_yscale() == "linear":
        # Values close to 1 would be written as 2e-5 beside the ticks and +1 above them.
        area.ticklabel_format(axis="y", useOffset=False)
    # matplotlib warns of a legend without entries.
    if legend is not None and area.get_legend_handles_labels()[1]:
        words: Any = dict(legend)
        if words.pop("outside", False):
            words |= {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
        area.legend(**words)


def _nan(reduce: Any, values: Sequence[np.ndarray]) -> float:
    return float(reduce([reduce(value) for value in values]))
