"""P4: how time and memory grow with the number of steps, and of parameters."""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import toolkit as tk
from benchmarks import scaling, ways
from benchmarks.contest import Entry
from benchmarks.problems import MOMENTUM, Problem, drawn
from toolkit import adjoint, linear
from toolkit.adjoint.reversible import momentum

DIGITS = 256  # the most, as a power of two, for which `hand` fits 3,000 steps into 4 GB
STEPS, UNITS = (10, 30, 100, 300, 1000, 3000), 133  # 9,985 parameters
FEW, PARAMETERS = 10, {985: 13, 9985: 133, 99985: 1333, 999985: 13333}  # -> hidden units
PLOT = Path(__file__).parents[1] / "scaling.svg"

WAYS: dict[str, Any] = {
    "hand": ways.unrolled_by_hand,
    "Unroll()": partial(ways.ours, adjoint=adjoint.Unroll()),
    'Unroll("sqrt")': partial(ways.ours, adjoint=adjoint.Unroll(checkpoint="sqrt")),
    "Reversible()": partial(ways.ours, adjoint=adjoint.Reversible()),
    "Forward()": partial(ways.ours, adjoint=adjoint.Forward()),
    "Implicit(CG(20))": partial(ways.ours, adjoint=adjoint.Implicit(linear.CG(ways.CG_STEPS, 0.0))),
}
EXACT = ("Unroll()", 'Unroll("sqrt")', "Reversible()", "Forward()")  # of the iterate's derivative


def problem(steps: int, units: int) -> Problem:
    """An MLP on digits, a log-penalty for each of its four arrays: `75 units + 10` parameters."""
    parts = tk.data.split(jax.random.key(0), tk.data.digits(), DIGITS, 500)[:2]
    train, validation = (part._replace(images=part.images.astype(float)) for part in parts)
    first, second = jax.random.split(jax.random.key(1))
    y0 = {
        "w1": drawn(jax.random.normal, first, (64, units)) / 8,
        "b1": jnp.zeros(units),
        "w2": drawn(jax.random.normal, second, (units, 10)) / units**0.5,
        "b2": jnp.zeros(10),
    }

    def loss(y: dict[str, jax.Array], data: Any) -> jax.Array:
        scores = jnp.tanh(data.images @ y["w1"] + y["b1"]) @ y["w2"] + y["b2"]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, data.labels))

    def inner(y: dict[str, jax.Array], theta: dict[str, jax.Array]) -> jax.Array:
        penalties = jax.tree.map(lambda leaf, t: jnp.exp(t) * jnp.sum(leaf**2), y, theta)
        return loss(y, train) + 0.5 * optax.tree.sum(penalties)

    theta = jax.tree.map(lambda _: jnp.asarray(-6.0), y0)
    return Problem(inner, lambda y, theta: loss(y, validation), y0, theta, steps)


def _entries() -> dict[str, Entry]:
    sizes = {("steps", steps): (steps, UNITS) for steps in STEPS}
    sizes |= {("parameters", count): (FEW, units) for count, units in PARAMETERS.items()}

    def build(way: Any, steps: int, units: int) -> Any:
        p = problem(steps, units)
        return way(p), (p.theta,)

    return {
        scaling.contestant(name, axis, value): Entry(
            partial(build, way, *size), scaling.contestant("hand", axis, value)
        )
        for (axis, value), size in sizes.items()
        for name, way in WAYS.items()
    }


SUITE = scaling.Sweep(tuple(WAYS), {"steps": STEPS, "parameters": tuple(PARAMETERS)}, _entries())


def tables(options: argparse.Namespace) -> str:
    """The section; with `--write` also the plot."""
    from benchmarks.results import machine

    rows = scaling.measure("p4_scaling", SUITE, options)
    if options.write:
        from benchmarks import scaling_plot

        scaling_plot.draw(SUITE, rows, PLOT)
    found = scaling.errors("p4_scaling", SUITE, EXACT, "steps", STEPS[-1], options.core)
    listed = ", ".join(f"{way} {error:.0e}" for way, error in found.items())
    return f"""\
## P4: how time and memory grow

An MLP 64-{UNITS}-10 on {DIGITS} digits, momentum {MOMENTUM}, gradient of the loss on 500 others in a log-penalty for \
each of the four arrays. Over steps: {75 * UNITS + 10:,} parameters; over parameters, with the hidden units: {FEW} steps. \
"slope" is that of a line through the logarithms; "power of what grows" is p of `a + b x^p`.

![time and memory over steps and parameters](scaling.svg)

{machine()}

{scaling.tables(SUITE, rows)}

Relative error against float64 after {STEPS[-1]:,} steps: {listed}; the implicit rule's gradient is another, that of the \
solution. {_side_information(rows)}
"""


def _side_information(rows: scaling.Rows) -> str:
    """What exact reversal stores, and when that is most of its memory."""
    plan = momentum.known_plan(np.full(STEPS[-1], MOMENTUM))
    bits = 8 * int(momentum.rows_used(plan))
    memory = rows["steps"][STEPS[-1]]["Reversible()"].temporary_bytes
    stored = bits / 8 * (75 * UNITS + 10)
    half = STEPS[-1] * (memory - stored) / stored
    return (
        f"`Reversible()` stores {bits / STEPS[-1]:.3f} bits a parameter and step, where log2(1 / {MOMENTUM}) is "
        f"{math.log2(1 / MOMENTUM):.3f}: {stored / memory:.0%} of its memory after {STEPS[-1]:,} steps. The rest does not "
        f"grow, hence the small slope; the bits are half after {half:,.0f} steps, and then the slope tends to 1."
    )
