"""The picture of a sweep: time and memory over each axis, a line a way, each named at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.race import Row
from benchmarks.scaling import Rows, Sweep, series

INCHES = (10, 7.2)
INK = "#333333"
COLORS = ("#777777", "#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito's
STYLE = {
    "svg.fonttype": "path",  # the same picture wherever it is seen
    "svg.hashsalt": "toolkit",  # the same file from the same numbers
    "font.size": 11,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
FIELDS = (("seconds", "CPU seconds"), ("temporary_bytes", "temporary MB"))
LABEL = 0.062  # height of a name, in heights of a panel


def draw(sweep: Sweep, rows: Rows, path: Path) -> None:
    """Writes the picture."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(INCHES, layout="constrained")
        panels = figure.subplots(len(FIELDS), len(sweep.axes), squeeze=False)
        for column, (axis, by_value) in enumerate(rows.items()):
            for row, (field, title) in enumerate(FIELDS):
                _panel(panels[row, column], sweep, by_value, field)
                panels[row, column].set_title(f"{title} over {axis}", loc="left", color=INK)
        figure.savefig(path, facecolor="white", metadata={"Date": None})


def _panel(
    panel: Axes, sweep: Sweep, by_value: Mapping[int, Mapping[str, Row]], field: str
) -> None:
    ends: dict[str, float] = {}
    for way, color in zip(sweep.ways, COLORS, strict=False):
        x, y = series(by_value, way, field)
        y = [value / (1e6 if field == "temporary_bytes" else 1) for value in y]
        panel.loglog(x, y, color=color, linewidth=2, marker="o", markersize=4)
        ends[way] = y[-1]
    panel.margins(x=0.03)
    panel.minorticks_off()
    panel.grid(color="#e5e5e5", linewidth=0.8)
    low, high = np.log(panel.get_ylim())
    heights = _apart({way: (np.log(end) - low) / (high - low) for way, end in ends.items()})
    for way, color in zip(sweep.ways, COLORS, strict=False):
        panel.annotate(
            way,
            (1.02, heights[way]),
            xycoords="axes fraction",
            color=color,
            va="center",
            annotation_clip=False,
        )


def _apart(heights: Mapping[str, float]) -> dict[str, float]:
    """Names moved so that none covers another: upwards in order, then all back by the mean."""
    order = sorted(heights, key=heights.__getitem__)
    wanted = np.array([heights[way] for way in order])
    placed = wanted.copy()
    # Each group of touching names stands around the mean of where its members want to be.
    groups = [[i] for i in range(len(order))]
    while True:
        spans = [(np.mean(wanted[g]) - LABEL * (len(g) - 1) / 2, len(g)) for g in groups]
        touching = [
            k
            for k in range(len(groups) - 1)
            if spans[k][0] + LABEL * spans[k][1] > spans[k + 1][0] + 1e-9
        ]
        if not touching:
            break
        k = touching[0]
        groups[k : k + 2] = [groups[k] + groups[k + 1]]
    for group, (start, _) in zip(groups, spans, strict=True):
        placed[group] = start + LABEL * np.arange(len(group))
    return dict(zip(order, placed.tolist(), strict=True))
