"""`heat_map`: a table of numbers in colors, each written into its cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.run.experiment.interface import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

SMALL = 7  # points; the size of the numbers in the cells
ROW_INCHES = 0.22  # in which a name can be read
FRAME_INCHES = 1.0  # around the rows, for the axis below them


def heat_map(
    title: str,
    caption: str,
    values: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    limits: tuple[float, float] | None = None,
    cmap: str = "viridis",
    scale: str = "",
    written: str | None = ".2f",
    wide: bool = False,
    **axes: Any,
) -> Figure:
    """A cell a number, colored by it.

    Args:
      title, caption, wide, axes: see `curves`.
      values: `[R, C]`; a NaN leaves its cell empty.
      rows, columns: names along both sides, the first row on top.
      limits: values of the first and the last color; by default the least and the largest number.
      cmap: matplotlib's name of the colors.
      scale: label of the color bar.
      written: how numbers are written into the cells, as in `format(number, written)`; None: not at all.
    """

    def draw(figure: Canvas) -> None:
        make_room(figure, len(rows))
        area = figure.subplots()
        table = np.asarray(values, float)
        low, high = limits or (float(np.nanmin(table)), float(np.nanmax(table)))
        drawn = area.imshow(table, cmap=cmap, vmin=low, vmax=high, aspect="auto")
        area.set_xticks(range(len(columns)), list(columns), fontsize=SMALL + 1)
        area.set_yticks(range(len(rows)), list(rows), fontsize=SMALL + 1)
        area.grid(visible=False)
        area.spines[:].set_visible(False)
        for (row, column), number in np.ndenumerate(table if written is not None else table[:0]):
            if np.isfinite(number):
                # White on dark cells and black on bright ones, by the brightness that the eye sees.
                red, green, blue, _ = drawn.cmap(drawn.norm(number))
                bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
                text = format(number, written or "")
                text = text.removeprefix("-") if float(text) == 0 else text  # no -0.0
                area.text(
                    *(column, row, text),
                    ha="center",
                    va="center",
                    fontsize=SMALL,
                    color="black" if bright else "white",
                )
        area.set(**axes)
        figure.colorbar(drawn, ax=area, label=scale)

    return Figure(title, caption, draw, wide)


def make_room(figure: Canvas, rows: int) -> None:
    """Makes a figure high enough that the names of its rows do not cover each other."""
    figure.set_figheight(max(figure.get_figheight(), ROW_INCHES * rows + FRAME_INCHES))
