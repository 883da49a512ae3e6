"""The pictures of `compare_rules`: its table, the table's columns, and the gradients."""

from __future__ import annotations

import textwrap
from typing import Any, NamedTuple

import numpy as np

from experiments.compare_rules import Config
from toolkit import run

HEAD = ("rule", "value", "relative error", "cosine", "ms", "temporary KiB", "grads", "HVPs", "")
# Where a column's text ends, as a part of the width; that of the first and last begins there.
EDGES = (0.0, 0.22, 0.33, 0.41, 0.47, 0.58, 0.64, 0.71, 0.73)
FLOOR = 1e-7  # errors below are drawn there


class Row(NamedTuple):
    """What was measured of a rule; of a refused one, the reason alone."""

    rule: str
    kind: str
    reason: str
    gradient: np.ndarray | None = None  # [64]
    value: float = np.nan
    relative_error: float = np.nan
    cosine: float = np.nan
    seconds: float = np.nan
    temp_bytes: float = np.nan
    gradient_evals: float = np.nan
    hvp_evals: float = np.nan


def measured_rows(config: Config, params: dict[str, Any]) -> list[Row]:
    """The rows of a finished run, in the order of its config."""
    rows = []
    for name, adjoint in config.adjoints.items():
        reason = bytes(np.asarray(params.get("reason", {}).get(name, []), np.uint8)).decode()
        if name in params["measured"]:
            reason = reason.lower().replace("_", " ")
            numbers = np.asarray(params["measured"][name])
            rows.append(Row(name, adjoint.kind, reason, params["gradient"][name], *numbers))
        else:
            rows.append(Row(name, adjoint.kind, reason))
    return rows


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """All of them, as the report shows them."""
    measured = measured_rows(config, params)
    made = [row for row in measured if row.gradient is not None]
    steps = getattr(config.solver, "num_steps", None)
    return (_table(measured), _columns(made, steps), _gradients(made))


def _table(measured: list[Row]) -> run.Figure:
    def draw(figure: Any) -> None:
        figure.set_layout_engine("none")
        figure.set_size_inches(figure.get_figwidth(), 0.26 * (len(measured) + 1))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 1), ylim=(len(measured) + 0.5, -0.5))
        axes.set_axis_off()
        for line, row in enumerate((None, *measured)):
            axes.axhline(line + 0.5, linewidth=0.5, alpha=0.25, color="0.5")
            cells = HEAD if row is None else cells_of(row)
            look = {"va": "center", "fontsize": 9, "weight": "bold" if row is None else "normal"}
            for number, (cell, edge) in enumerate(zip(cells, EDGES, strict=False)):
                outer = number in (0, len(HEAD) - 1)
                axes.text(edge, line, cell, ha="left" if outer else "right", **look)
            if row is not None and row.gradient is None:
                reason = textwrap.fill(row.reason, 130)
                axes.text(0.17, line, reason, va="center", fontsize=7.5, linespacing=1)

    return run.Figure(
        "Rules",
        "Each against the first; the costs of one hypergradient, compiled. At the end, what its "
        "report says, or why the rule was refused.",
        draw,
        wide=True,
    )


def _columns(made: list[Row], steps: int | None) -> run.Figure:
    kinds = list(dict.fromkeys(row.kind for row in made))

    def draw(figure: Any) -> None:
        figure.set_size_inches(figure.get_figwidth(), 0.22 * len(made) + 0.8)
        parts = (
            ("relative error", [max(row.relative_error, FLOOR) for row in made]),
            ("milliseconds", [1e3 * row.seconds for row in made]),
            ("temporary KiB", [row.temp_bytes / 1024 for row in made]),
        )
        colors = [f"C{kinds.index(row.kind)}" for row in made]
        for axes, (label, values) in zip(
            figure.subplots(1, len(parts), sharey=True), parts, strict=True
        ):
            axes.set_xscale("log")
            axes.hlines(
                range(len(made)), min(values), values, colors=colors, linewidth=1, alpha=0.5
            )
            axes.scatter(values, range(len(made)), c=colors, s=28)
            axes.set(xlabel=label, ylim=(len(made) - 0.5, -0.5))
            axes.set_yticks(range(len(made)), [row.rule for row in made], fontsize=9)
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="x", which="minor", labelbottom=False)
            # At least a decade is shown, because a shorter axis would have one tick or none.
            low, high = axes.get_xlim()
            axes.set_xlim(low, max(high, 10 * low))

    return run.Figure(
        "Error, time, memory",
        f"One colour a kind. Errors below {FLOOR:g} are drawn there."
        + (f" The solve makes {steps} steps." if steps else ""),
        draw,
        wide=True,
    )


def _gradients(made: list[Row]) -> run.Figure:
    def draw(figure: Any) -> None:
        width = min(len(made), 9)
        height = -(-len(made) // width)
        figure.set_size_inches(figure.get_figwidth(), 1.45 * height)
        largest = max(float(np.nanmax(np.abs(row.gradient))) for row in made)
        for axes in np.ravel(figure.subplots(height, width)):
            axes.set_axis_off()
        for axes, row in zip(figure.axes, made, strict=False):
            image = np.asarray(row.gradient).reshape(8, 8)
            axes.imshow(image, cmap="RdBu", vmin=-largest, vmax=largest)
            axes.set_title(row.rule, fontsize=8, fontweight="normal")

    return run.Figure(
        "The hypergradient of each pixel's penalty",
        "One picture a rule, one scale; blue where a smaller penalty is better.",
        draw,
        wide=True,
    )


def cells_of(row: Row) -> tuple[str, ...]:
    """A line of the table; of a refused rule, its name."""
    if row.gradient is None:
        return (row.rule,)
    return (
        row.rule,
        f"{row.value:.5g}",
        f"{row.relative_error:.1e}" if row.relative_error else "0",
        "–" if np.isnan(row.cosine) else f"{row.cosine:.6f}",
        f"{1e3 * row.seconds:,.0f}",
        f"{row.temp_bytes / 1024:,.0f}",
        f"{row.gradient_evals:,.0f}",
        f"{row.hvp_evals:,.0f}",
        row.reason,
    )
