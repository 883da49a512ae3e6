"""The pictures of `rules_on_digits`: alignment and accuracy over training, and what they cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments import learners
from experiments.rules_on_digits import Config
from toolkit import run

draw = run.pictures


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """All of them, as the report shows them."""
    names = list(config.rules)
    return (
        _over_training(
            "Alignment of the first layer",
            "Cosine of the rule's gradient with the true one of its own prediction, mean over draws.",
            "cosine_first",
            names,
            rows,
            limits=(-1.0, 1.0),
            cmap="RdBu",
        ),
        _over_training(
            "Held-out accuracy, %",
            "Mean over draws. Digits cannot rank the exact rules: they all end at the same number.",
            "accuracy",
            names,
            rows,
            limits=(80.0, 100.0),
            percent=True,
        ),
        learners.accuracy_bars(names, params),
        _costs(names, params),
    )


def _over_training(
    title: str,
    caption: str,
    column: str,
    names: list[str],
    rows: list[dict[str, Any]],
    percent: bool = False,
    **look: Any,
) -> run.Figure:
    """A row a rule, a column an epoch."""
    table = np.array([draw.column(rows, f"{column}/{name}") for name in names])
    return draw.heat_map(
        title,
        caption,
        100 * table if percent else table,
        names,
        [f"{row['step']:g}" for row in rows],
        written=".0f" if percent else ".1f",
        wide=True,
        xlabel="epoch",
        **look,
    )


def _costs(names: list[str], params: dict[str, Any]) -> run.Figure:
    return draw.bars(
        "Time of a gradient",
        "Over backprop's on the same network and batch; where a network is this small, calls dominate.",
        {name: float(params["seconds_ratio"][name]) for name in names},
        label="time / backprop",
        xscale="log",
    )
