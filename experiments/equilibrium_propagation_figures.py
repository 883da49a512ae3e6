"""The pictures of `equilibrium_propagation`."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.equilibrium_propagation import LAYERS, SCHEMES, Config
from toolkit import run


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
    return (
        draw.curves(
            "Learning",
            "From nudges alone.",
            {"held-out accuracy": of("accuracy"), "loss": of("loss")},
            xlabel="epoch",
            ylim=(0, 1),
        ),
        draw.curves(
            "Is it the right direction?",
            "Each layer's gradient against the implicit one, the worst of an epoch. Dashed: cosine 0.999.",
            {layer: gap(layer) for layer in LAYERS},
            across={"_good": 1e-3},
            xlabel="epoch",
            ylabel="1 - cosine",
            yscale="log",
        ),
        draw.curves(
            "Is it the right length?",
            "1 is the length of the implicit gradient.",
            {layer: of(f"norm_ratio_{layer}") for layer in LAYERS},
            xlabel="epoch",
            ylabel="norm over implicit norm",
        ),
        draw.bars(
            "What a batch costs",
            "A gradient, compiled; this machine.",
            {name: metrics[f"milliseconds_{name}"] for name in SCHEMES},
            label="milliseconds a batch",
        ),
        draw.curves(
            "How large may a nudge be?",
            "The trained network, one batch. On the right the bias of the scheme, on the left float32's "
            "rounding; a curve leaves the picture where the nudged network no longer settles.",
            errors,
            xlabel="beta",
            ylabel="relative error",
            xscale="log",
            yscale="log",
            ylim=(None, 1),
            wide=True,
        ),
    )
