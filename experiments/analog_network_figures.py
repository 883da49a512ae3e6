"""The pictures of `analog_network`."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.analog_network import Config
from toolkit import run


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """All of them, as the report shows them."""
    draw = run.pictures
    steps, mismatches = draw.column(rows, "step"), np.asarray(config.mismatches)
    marks = {"marker": "o"}

    def over(name: str, level: int) -> Any:
        """Over mismatches: the mean over chips, in a band from the lowest to the highest."""
        return draw.over_seeds(mismatches, np.asarray(params[name])[level].T, **marks)

    last = len(config.levels) - 1
    finest = config.levels[last]
    return (
        draw.curves(
            "Is mismatch a problem?",
            f"{finest} levels, held-out digits; the band holds all {config.chips} chips.",
            {"learned in place": over("in_place", last), "deployed": over("deployed", last)},
            xlabel="mismatch",
            ylabel="accuracy",
            ylim=(None, 1),
        ),
        draw.curves(
            "Whose gradient is it?",
            "Cosine with the derivative of the network that the chip is.",
            {
                "in place": over("cosine_in_place", last),
                "backprop through the perfect circuit": over("cosine_backprop", last),
            },
            xlabel="mismatch",
            ylabel="cosine",
            across={"_none": 0.0},
            ylim=(None, 1.05),
            legend={"loc": "lower left"},
        ),
        draw.curves(
            "How many levels does learning in place need?",
            "Held-out accuracy, a line a number of levels.",
            {f"{n} levels": over("in_place", k) for k, n in enumerate(config.levels)},
            xlabel="mismatch",
            ylabel="accuracy",
            ylim=(None, 1),
        ),
        *(
            draw.heat_map(
                f"Accuracy, {name.replace('_', ' ')}",
                "Held-out digits, mean over chips.",
                np.asarray(params[name]).mean(axis=2),
                [f"{n} levels" for n in config.levels],
                [f"{m:g}" for m in config.mismatches],
                limits=(0.5, 1),
                xlabel="mismatch",
            )
            for name in ("in_place", "deployed")
        ),
        draw.curves(
            "Learning",
            "Mean loss of an epoch, over chips and mismatches.",
            {
                f"{n} levels": draw.Curve(steps, draw.column(rows, f"loss_in_place_{n}"))
                for n in config.levels
            },
            xlabel="epoch",
            ylabel="cross-entropy",
            yscale="log",
        ),
    )
