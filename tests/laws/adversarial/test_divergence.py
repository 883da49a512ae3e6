"""Solvers that diverge, that pass through Inf, or that take no step: nothing is called converged, unless it is."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np
import optax

import toolkit as tk
from tests.laws.adversarial.calls import (
    GRADIENT,
    NEWTON,
    RULES,
    SOLUTION,
    Y0,
    Flagged,
    Refused,
    Right,
    Row,
    check,
    each,
    hyper,
    value,
)
from toolkit.adjoint import Reversible
from toolkit.solver import (
    LBFGS,
    Anderson,
    FixedPointIteration,
    GradientDescent,
    Newton,
    Optax,
    ProximalGradient,
)
from toolkit.types import Issue, Status

STOPPED_SHORT = Flagged(Status.STEP_LIMIT)
OVERFLOWED = Flagged(Status.NOT_FINITE, nan=True)

# Also where the step after an infinite one would be finite again.
DIVERGING = [
    Row(
        "overflow_of_an_expanding_map",
        value(lambda y, t: y**2, FixedPointIteration(99, 1e-9), y0=Y0 + 2, make=tk.fixed_point),
        OVERFLOWED,
    ),
    Row(
        "map_that_returns_from_infinity",
        value(lambda y, t: 1 / y, FixedPointIteration(60, 1e-9), make=tk.fixed_point),
        OVERFLOWED,
    ),
    Row(
        "newton_on_a_function_without_root",
        value(lambda y, t: y**2 + 1, NEWTON, y0=Y0 + 0.5, make=tk.root),
        STOPPED_SHORT,
    ),
    Row(
        # 40 steps of 1 from 730: the gradient there is 1e299, and no scale for a tolerance.
        "infinite_start_that_clipping_survives",
        value(
            lambda y, t: jnp.sum(jnp.exp(y) - y),
            Optax(optax.chain(optax.clip(1.0), optax.sgd(1.0)), 40),
            y0=Y0 + 730,
        ),
        STOPPED_SHORT,
    ),
    Row(
        "unbounded_below",
        hyper(lambda y, t: -jnp.sum(y**2 + t * y), LBFGS(30, 1e-6), y0=Y0 + 1),
        Flagged(Issue.INNER_NOT_CONVERGED | Issue.NEGATIVE_CURVATURE),
    ),
    *[
        Row(
            f"momentum_{name}",
            partial(GradientDescent, 0.1, steps, momentum),
            Refused(rf"`momentum` must be a number in \[0, 1\), .*got {momentum}"),
        )
        for name, steps, momentum in (
            ("above_one", 80, 1.5),
            ("of_one", 80, 1.0),
            ("above_one_reversible", 30, 1.5),
        )
    ],
    # An array may be traced, so its value is not looked into: the status says what became of it.
    Row(
        "momentum_array_above_one",
        value(solver=GradientDescent(0.1, 80, jnp.asarray(1.5))),
        STOPPED_SHORT,
    ),
    Row(
        "momentum_array_of_one",
        value(solver=GradientDescent(0.1, 80, jnp.asarray(1.0))),
        STOPPED_SHORT,
    ),
    Row(
        "momentum_array_above_one_reversible",
        hyper(solver=GradientDescent(0.1, 30, jnp.asarray(1.5)), adjoint=Reversible()),
        Flagged(Issue.NOT_FINITE, nan=True),
    ),
    Row(
        "momentum_of_zero_reversible",
        hyper(solver=GradientDescent(0.4, 80, 0.0), adjoint=Reversible()),
        Right(GRADIENT),
    ),
    Row("huge_step_size", value(solver=GradientDescent(1e200, 9)), OVERFLOWED),
]

NO_STEPS = [
    *[
        Row(f"no_steps_{name}", value(solver=solver), STOPPED_SHORT)
        for name, solver in {
            "descent": GradientDescent(0.4, 0),
            "descent_with_tolerance": GradientDescent(0.4, 0, tol=1e-6),
            "descent_with_an_array": GradientDescent(np.zeros(0), 0),
            "adam": Optax(optax.adam(0.1), 0),
        }.items()
    ],
    # A solver that stops at a tolerance takes at least one step.
    *[
        Row(
            f"no_steps_{name}",
            program,
            Refused("`max_steps` must be an int of at least 1: got 0"),
        )
        for name, program in (
            ("lbfgs", partial(LBFGS, 0, 1e-6)),
            ("newton", partial(Newton, 0, 1e-6)),
            ("proximal", partial(ProximalGradient, lambda y, t, s: y, 0.4, 0, 1e-6)),
            ("of_a_map", partial(Anderson, 0, 1e-6)),
        )
    ],
    *[
        # The derivative of no steps is exactly zero.
        Row(
            f"no_steps_under_{name}",
            hyper(solver=GradientDescent(0.4, 0), adjoint=RULES[name]),
            Right(np.zeros(2)),
        )
        for name in ("unroll", "forward", "truncated", "reversible")
    ],
    Row(
        "no_steps_at_the_solution",
        hyper(solver=GradientDescent(0.4, 0), y0=SOLUTION),
        Right(GRADIENT),
    ),
    Row("newton_at_the_solution", hyper(solver=NEWTON, y0=SOLUTION), Right(GRADIENT)),
]


@each(DIVERGING)
def test_divergence_is_told(row: Row) -> None:
    check(row)


@each(NO_STEPS)
def test_no_steps_are_no_solution_unless_the_start_is_one(row: Row) -> None:
    check(row)
