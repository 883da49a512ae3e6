"""Rules side by side as a picture: error, time, memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MUTED = "0.5"  # matplotlib's name of the middle grey, seen on white and on black
_LETTERS = 40  # of a reason, beside the name of a rule that failed


class Bars(NamedTuple):
    """What is drawn of one rule; NaN is not drawn."""

    relative_error: float
    milliseconds: float
    kibibytes: float
    failure: str  # why there is nothing to draw; else empty


def drawn(rules: Mapping[str, Bars]) -> Figure:
    """A matplotlib figure: rules from top to bottom, in panels of their own the three numbers."""
    # Importing it takes half a second. In a notebook the import also makes figures show as pictures.
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, 3, sharey=True, figsize=(9, 1 + 0.4 * len(rules)), layout="constrained"
    )
    plt.close(figure)  # else a notebook shows it twice: as open, and as the value of the cell
    titles = ("error, relative to the first", "time, ms", "temporary memory, KiB")
    for panel, title, values in zip(
        panels, titles, zip(*rules.values(), strict=True), strict=False
    ):
        _panel(panel, title, values)
    panels[0].set_yticks(range(len(rules)), [_label(*one) for one in rules.items()])
    panels[0].invert_yaxis()
    return figure


def _label(name: str, bars: Bars) -> str:
    short = bars.failure[:_LETTERS] + "…" * (len(bars.failure) > _LETTERS)
    # A dollar begins a formula in matplotlib's texts.
    return (f"{name}\nfailed: {short}" if short else name).replace("$", r"\$")


def _panel(panel: Axes, title: str, values: tuple[float, ...]) -> None:
    finite = [value if math.isfinite(value) else 0.0 for value in values]
    panel.barh(range(len(values)), finite, color="C0")
    positive = [value for value in finite if value > 0]
    # Errors of 1e-16 beside 1e-2, and milliseconds beside seconds.
    if positive and max(positive) > 30 * min(positive):
        panel.set_xscale("log")
        panel.set_xlim(left=min(positive) / 3)
    for place, value in enumerate(values):
        if value == 0 or not math.isfinite(value):
            panel.annotate(
                f" {value:g}",
                (0, place),
                xycoords=("axes fraction", "data"),
                va="center",
                color=_MUTED,
            )
    panel.set_title(title, fontsize="medium")
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(axis="x", labelsize="small")
