"""The pictures of `nested_relaxation`."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.nested_relaxation import WRITTEN, Config
from toolkit import run


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """All of them, as the report shows them."""
    draw = run.pictures
    times = {}
    for name, marker in zip(WRITTEN, "o.", strict=True):
        milliseconds = 1e3 * np.asarray(params[f"seconds_{name}"])
        times[name] = draw.Curve(range(len(milliseconds)), milliseconds, look={"marker": marker})
    said = "Both from the same start, an epoch in turn; the more sweeps, the slower. This machine."
    return (
        draw.curves(
            "Does plain Python cost anything?",
            said,
            times,
            xlabel="epoch",
            ylabel="milliseconds",
            ylim=(0, None),
        ),
    )
