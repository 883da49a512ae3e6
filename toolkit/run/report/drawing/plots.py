"""matplotlib figures as SVG inside a page: with the page's text color, and without references to the web."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure as Canvas

from toolkit.run.experiment.interface import Figure
from toolkit.run.store.metrics import RESERVED

Rows = Sequence[Mapping[str, Any]]

NARROW, WIDE = (5.0, 3.1), (10.2, 4.0)  # inches; matplotlib counts 72 points an inch
# Stand for the page's colors, which are CSS variables and no colors for matplotlib. `svg` replaces them.
INK, LINE = "#010203", "#040506"
# Hues of middling lightness, to be told apart on white and on near-black.
PALETTE = ("#3b82c4", "#e0803a", "#3f9f75", "#b066c2", "#c2a02c", "#d65a6f", "#5aa7b0", "#8a8f98")

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "grid.linewidth": 0.7,
    "grid.color": LINE,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.constrained_layout.use": True,
} | dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
)


def svg(figure: Figure, index: int) -> str:
    """The figure as an inline `<svg>`; `index` keeps its ids apart from those of the page's other figures.

    Raises: whatever the figure's `draw` raises.
    """
    # matplotlib makes its ids from a salt, by default a random one. With a fixed salt the page is the same
    # each time.
    style: Any = {**STYLE, "svg.hashsalt": f"figure {index}"}
    with matplotlib.rc_context(style):
        canvas = Canvas(figsize=WIDE if figure.wide else NARROW)
        figure.draw(canvas)
        for axes in canvas.axes:
            if axes.images:  # a grid belongs under lines, not over pixels
                axes.grid(False)
        text = io.StringIO()
        canvas.savefig(
            text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    # What follows makes the drawing part of its page: ids that no other figure has, colors that follow the
    # page's theme, and nothing that refers to a file outside.
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg") :]  # without the prolog, which names a DTD on the web
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", drawing, count=3).replace(
        "xlink:href", "href"
    )
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{index}-", drawing)
    return drawing.replace(INK, "currentColor").replace(LINE, "var(--line)")


def curves(runs: Mapping[str, Rows]) -> tuple[Figure, ...]:
    """A figure for each metric, with a line for each run."""
    names = dict.fromkeys(name for rows in runs.values() for row in rows for name in _metrics(row))
    return tuple(Figure(name, "", _curve(name, runs)) for name in names)


def _metrics(row: Mapping[str, Any]) -> list[str]:
    """Those with a number: a run that is not finite from its first row on has curves without points."""
    return [name for name, value in row.items() if name not in RESERVED and value is not None]


def _curve(name: str, runs: Mapping[str, Rows]) -> Callable[[Canvas], None]:
    def draw(figure: Canvas) -> None:
        axes = figure.subplots()
        seen: list[float] = []
        for label, rows in runs.items():
            points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
            seen += [value for _, value in points]
            marker = "o" if len(points) < 3 else None
            axes.plot(*zip(*points, strict=True), label=label, marker=marker) if points else None
        # A quantity that falls by orders of magnitude shows its end only on a logarithmic axis.
        if seen and min(seen) > 0 and max(seen) > 50 * min(seen):
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.locator_params(axis="x", integer=True)  # a short run has no step 1.2
        axes.margins(x=0.02)
        if len(runs) > 1:
            axes.legend()

    return draw
