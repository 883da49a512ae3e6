"""The pictures of `equilibrium_propagation`."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.equilibrium_propagation import LAYERS, SCHEMES, Config, rules
from toolkit import run

UNITS = 18  # hidden units drawn


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """All of them, as the report shows them."""
    draw = run.pictures
    steps = draw.column(rows, "step")

    def of(name: str) -> Any:
        return draw.Curve(steps, draw.column(rows, name))

    def gap(layer: str) -> Any:
        # Rounding can carry a cosine past 1, and a logarithmic axis shows no gap of 0 or less.
        cosines = np.asarray(draw.column(rows, f"cosine_{layer}"))
        return draw.Curve(steps, np.maximum(1 - cosines, 1e-8))

    errors = {
        scheme: draw.Curve(params["betas"], errors, look={"marker": "o"})
        for scheme, errors in zip(SCHEMES, np.asarray(params["errors"]), strict=True)
    }
    weights = np.asarray(params["layer1"]["weights"])
    strongest = np.argsort(-np.linalg.norm(weights, axis=0), kind="stable")[:UNITS]
    limit = float(np.abs(weights[:, strongest]).max())
    return (
        draw.curves(
            "Learning",
            "From nudges alone.",
            {"held-out accuracy": of("accuracy"), "loss of a batch": of("loss")},
            xlabel="update",
            ylim=(0, 1.5),
        ),
        draw.curves(
            "Is it the right direction?",
            "Each layer's gradient against the implicit one, at each update. Dashed: cosine 0.999.",
            {layer: gap(layer) for layer in LAYERS},
            across={"_good": 1e-3},
            xlabel="update",
            ylabel="1 - cosine",
            yscale="log",
        ),
        draw.curves(
            "Is it the right length?",
            "1 is the length of the implicit gradient.",
            {layer: of(f"norm_ratio_{layer}") for layer in LAYERS},
            xlabel="update",
            ylabel="norm over implicit norm",
        ),
        draw.curves(
            "How large may a nudge be?",
            "The trained network, one batch. On the right the bias of the scheme, on the left float32's "
            "rounding; a curve ends where the rule gives NaN, because the nudged solves failed.",
            errors,
            xlabel="beta",
            ylabel="relative error",
            xscale="log",
            yscale="log",
        ),
        draw.bars(
            "What a batch costs",
            "Value and gradient, compiled; this machine.",
            {name: metrics[f"milliseconds_{name}"] for name in rules(config)},
            label="milliseconds a batch",
        ),
        draw.images(
            "What the hidden units look for",
            f"The {UNITS} units with the largest weights; red excites, blue inhibits.",
            [weights[:, unit].reshape(8, 8) for unit in strongest],
            limits=(-limit, limit),
            cmap="RdBu_r",
        ),
    )
