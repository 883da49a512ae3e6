"""Curves of several runs: a mean with a band for each group of seeds, a thin line for each unfinished run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure as Canvas

from toolkit.run.experiment.interface import Figure
from toolkit.run.report.drawing.plots import PALETTE
from toolkit.run.report.groups import Group, plain_names, values
from toolkit.run.report.story import Story
from toolkit.run.store.metrics import RESERVED

# By matplotlib's name of a line style, the same as SVG writes it: lengths of dashes and gaps.
DASHES = {
    "solid": "",
    "dashed": "6 3",
    "dotted": "1.5 2.5",
    "dashdot": "7 2.5 1.5 2.5",
}
DRAWN = len(PALETTE) * len(DASHES)  # groups that can be told apart


class Look(NamedTuple):
    """How a group is drawn, in the figures and beside its name."""

    color: str
    style: str

    @property
    def dashes(self) -> str:
        return DASHES[self.style]


class MeanCurve(NamedTuple):
    """A metric of a group at the steps that all its finished runs have."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def look(index: int) -> Look:
    return Look(PALETTE[index % len(PALETTE)], list(DASHES)[index // len(PALETTE) % len(DASHES)])


def bands(groups: Sequence[Group]) -> tuple[Figure, ...]:
    """A figure for each metric.

    What is drawn for group N has an id with `group-N-`, by which the page shows and hides it.
    """
    names = dict.fromkeys(
        name
        for group in groups
        for story in group.stories
        for row in story.rows
        for name in plain_names(row, story)
        if name not in RESERVED
    )
    return tuple(Figure(name, "", _drawing(name, groups[:DRAWN])) for name in names)


def curve(name: str, group: Group) -> MeanCurve | None:
    """Mean, lowest and highest over the finished runs; None where they share no step."""
    series = [points for story in group.finished for points in _series(name, story)]
    shared = sorted(set.intersection(*map(set, series))) if series else []
    if not shared:
        return None
    columns = [[points[step] for points in series] for step in shared]
    mean = [sum(column) / len(column) for column in columns]
    return MeanCurve(shared, mean, list(map(min, columns)), list(map(max, columns)))


def _series(name: str, story: Story) -> list[dict[int, float]]:
    """A metric of each seed of a run, as step -> value. Steps at which not every seed has it are left out."""
    found = [(row["step"], values(row, name, story)) for row in story.rows]
    count = max((len(each) for _, each in found), default=0)
    return [{step: each[i] for step, each in found if len(each) == count} for i in range(count)]


def _drawing(name: str, groups: Sequence[Group]) -> Callable[[Canvas], None]:
    def draw(figure: Canvas) -> None:
        axes = figure.subplots()
        seen: list[float] = []
        for index, group in enumerate(groups):
            color, style = look(index)
            found = curve(name, group)
            if found is not None:
                seen += found.low + found.high
                marker = "o" if len(found.steps) < 3 else None
                line: Any = {"color": color, "linestyle": style, "marker": marker}
                axes.plot(found.steps, found.mean, gid=f"group-{index}-mean", **line)
                if group.n > 1:
                    area: Any = {"color": color, "alpha": 0.18, "linewidth": 0}
                    axes.fill_between(
                        found.steps, found.low, found.high, gid=f"group-{index}-band", **area
                    )
            open_ = [story for story in group.stories if story not in group.finished]
            thin: Any = {"color": color, "linestyle": style, "linewidth": 0.8, "alpha": 0.7}
            lines = [points for story in open_ for points in _series(name, story)]
            for number, points in enumerate(lines):
                seen += points.values()
                gid = f"group-{index}-open-{number}"
                axes.plot(list(points), list(points.values()), gid=gid, **thin)
        # A quantity that falls by orders of magnitude shows its end only on a logarithmic axis.
        if seen and min(seen) > 0 and max(seen) > 50 * min(seen):
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.locator_params(axis="x", integer=True)  # a short run has no step 1.2
        axes.margins(x=0.02)

    return draw
