"""The figures and the columns of the page that show gradients leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolkit.run.experiment.interface import Figure

Rows = Sequence[Mapping[str, Any]]

COLUMNS = {  # of a table
    "norm": "norm",
    "max_abs": "largest entry",
    "zero_fraction": "part zero",
    "nonfinite": "not finite",
    "update_ratio": "update / parameter",
}
_LINES = 8  # in a figure; as many as there are colors
_CURVES = {
    "norm": ("Gradient norm", True),
    "update_ratio": ("Size of the update, relative to the parameter", True),
    "zero_fraction": ("Part of the gradient that is zero", False),
}


def reported(rows: Rows) -> Rows:
    """The rows that have gradients."""
    return [row for row in rows if row.get("gradients")]


def figures(rows: Rows) -> tuple[Figure, ...]:
    """A figure for each quantity, with a line for each of the leaves whose last gradient is largest."""
    rows = reported(rows)
    if not rows:
        return ()
    last = rows[-1]["gradients"]
    chosen = sorted(last, key=lambda name: -(last[name]["norm"] or 0))[:_LINES]
    kept = [name for name in last if name in chosen]
    caption = (
        f"The {_LINES} of {len(last)} leaves whose last gradient is largest."
        if len(last) > _LINES
        else ""
    )
    return tuple(
        Figure(title, caption, _curve(key, kept, rows, logarithmic))
        for key, (title, logarithmic) in _CURVES.items()
        if any(row["gradients"][name][key] is not None for row in rows for name in kept)
    )


def _curve(key: str, names: Sequence[str], rows: Rows, logarithmic: bool) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        drawn: list[float] = []
        for name in names:
            points = [(row["step"], row["gradients"][name][key]) for row in rows]
            points = [(step, value) for step, value in points if value is not None]
            marker = "o" if len(points) < 3 else None
            axes.plot(*zip(*points, strict=True), label=name, marker=marker) if points else None
            drawn += [value for _, value in points]
        if logarithmic and drawn and max(drawn) > 0:
            axes.set_yscale("log")
        if not logarithmic:
            axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("step")
        axes.margins(x=0.02)
        axes.legend(fontsize=8)

    return draw
