"""Time and memory as something grows: a race at each size, tables, and the exponents fitted to them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.contest import Entry
from benchmarks.race import Row, race

Rows = dict[str, dict[int, dict[str, Row]]]  # axis -> value -> way -> row


class Sweep(NamedTuple):
    """Ways to one thing, raced at each value of each axis; the first is what they are compared with."""

    ways: tuple[str, ...]
    axes: Mapping[str, tuple[int, ...]]  # what grows -> its values
    entries: Mapping[str, Entry]  # by `contestant`


class Fit(NamedTuple):
    """Of `y` over `x`: positive, and several times larger at the end than at the start."""

    slope: float  # of log y over log x
    power: float | None  # p of y = a + b x^p, the part that grows; None where y hardly does


def contestant(way: str, axis: str, value: int) -> str:
    """The name of a way at one size."""
    return f"{way}, {value} {axis}"


def measure(suite: str, sweep: Sweep, options: argparse.Namespace) -> Rows:
    """A race at each size. A quarter of the usual rounds: there are many sizes."""
    rounds = max(1, options.rounds // 4)

    def at(axis: str, value: int) -> dict[str, Row]:
        names = [contestant(way, axis, value) for way in sweep.ways]
        entries = {name: sweep.entries[name] for name in names}
        rows = race(suite, entries, "", options.core, rounds)
        return dict(zip(sweep.ways, rows, strict=True))

    return {
        axis: {value: at(axis, value) for value in values} for axis, values in sweep.axes.items()
    }


def errors(
    suite: str, sweep: Sweep, ways: Sequence[str], axis: str, value: int, core: int
) -> dict[str, float]:
    """The relative error, against float64, of ways that make the same gradient."""
    names = [contestant(way, axis, value) for way in (sweep.ways[0], *ways)]
    entries = {name: sweep.entries[name] for name in names}
    rows = race(suite, entries, names[1], core, 1)
    return {
        way: row.error for way, row in zip(ways, rows[1:], strict=True) if row.error is not None
    }


def fit(x: Sequence[int], y: Sequence[float]) -> Fit:
    """By least squares, of relative errors where powers are fitted."""
    at, found = np.asarray(x, float), np.asarray(y, float)
    slope = float(np.polyfit(np.log(at), np.log(found), 1)[0])
    if found[-1] < 1.1 * found[0]:
        return Fit(slope, None)

    def misfit(power: float) -> float:
        terms = np.stack([np.ones_like(at), at**power], 1) / found[:, None]
        return float(np.sum((terms @ np.linalg.lstsq(terms, np.ones_like(at))[0] - 1) ** 2))

    return Fit(slope, float(min(np.arange(0.2, 2, 0.01), key=misfit)))


def tables(sweep: Sweep, rows: Rows) -> str:
    """Markdown: of each axis, times and bytes, and how they grow."""
    parts = []
    for axis, by_value in rows.items():
        parts += [
            f"CPU time over that of `{sweep.ways[0]}`:",
            _table(sweep, axis, by_value, "seconds", 1e3, "ms"),
            f"Temporary memory, and its ratio to that of `{sweep.ways[0]}`:",
            _table(sweep, axis, by_value, "temporary_bytes", 1e-6, "MB"),
        ]
    return "\n\n".join(parts)


def _table(
    sweep: Sweep,
    axis: str,
    by_value: Mapping[int, Mapping[str, Row]],
    field: str,
    scale: float,
    unit: str,
) -> str:
    head = f"| {axis} | {' | '.join(sweep.ways)} |\n|---:|{'---:|' * len(sweep.ways)}"
    base = sweep.ways[0]

    def cell(way: str, at: Mapping[str, Row]) -> str:
        if at[way].missing:
            return at[way].missing
        own, other = getattr(at[way], field), getattr(at[base], field)
        if field == "seconds" and way != base:
            return f"{at[way].ratio:.2f}"
        size = f"{_short(own * scale)} {unit}"
        return size if way == base else f"{size}, 1/{_short(other / own)}"

    lines = [
        f"| {value:,} | {' | '.join(cell(way, at) for way in sweep.ways)} |"
        for value, at in by_value.items()
    ]
    fits = {way: fit(*series(by_value, way, field)) for way in sweep.ways}
    lines.append(f"| slope | {' | '.join(f'{fits[way].slope:z.2f}' for way in sweep.ways)} |")
    power = lambda p: "-" if p is None else f"{p:.2f}"
    lines.append(
        f"| power of what grows | {' | '.join(power(fits[way].power) for way in sweep.ways)} |"
    )
    return "\n".join([head, *lines])


def _short(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def series(
    by_value: Mapping[int, Mapping[str, Row]], way: str, field: str
) -> tuple[list[int], list[float]]:
    """Sizes, and what was measured of a way there."""
    ran = {value: at[way] for value, at in by_value.items() if not at[way].missing}
    return [*ran], [float(getattr(row, field)) for row in ran.values()]
