"""What a call brings beside `y0` and `theta`: inputs of the steps, starts of the linear system, own solvers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import toolkit as tk
from tests.laws.adversarial.calls import (
    GRADIENT,
    INF,
    NAN,
    RULES,
    Y0,
    Flagged,
    H,
    Refused,
    Right,
    Row,
    check,
    each,
    hyper,
    value,
    weighted,
)
from toolkit.adjoint import Unroll
from toolkit.types import Issue

INPUTS_OF_STEPS = [
    *[
        Row(
            f"{name}_xs",
            value(weighted, xs=xs, adjoint=Unroll()),
            Refused(f"`xs` must have {said}"),
        )
        for name, xs, said in (
            ("short", np.ones(79), r"num_steps=80 entries .*got shape \(79,\)"),
            (
                "uneven",
                {"a": np.ones(80), "b": np.ones(81)},
                r"num_steps=80 entries .*got shape \(81,\)",
            ),
            ("scalar", 1.0, r"one entry a step .*got float64\[\]"),
            ("empty", np.ones(0), r"one entry a step .*got float64\[0\]"),
            ("string", "abc", r"one entry a step .*got str"),
            ("range", range(80), r"one entry a step .*got range"),
        )
    ],
    *[
        Row(
            f"xs_under_{name}",
            value(weighted, xs=np.ones(80), adjoint=RULES[name]),
            Refused(r"`xs` must be None under \w+: .*use Unroll, Truncated or Stopped"),
        )
        for name in ("implicit", "one_step", "nudged")
    ],
]

STARTS_OF_THE_LINEAR_SYSTEM = [
    Row(
        "v0_of_another_shape",
        hyper(v0=np.ones(3)),
        Refused(r"`v0` must be like `y`, or None: got float64\[3\], expected"),
    ),
    Row(
        "v0_of_integers",
        hyper(v0=np.ones(2, int)),
        Refused(r"`v0` must be like .*got int64\[2\]"),
    ),
    Row(
        "v0_under_unroll",
        hyper(v0=Y0, adjoint=Unroll()),
        Refused(r"`v0` must be None where .*Unroll; use Implicit"),
    ),
]


def answering(steps):
    """A solver of one's own that knows the solution, and says how many steps it took."""
    return lambda fun, y, theta: tk.Solution(jnp.linalg.solve(H, theta), tk.SolveInfo(0, steps, 0))


def claiming(made):
    """A solver of one's own that calls anything a solution."""
    return lambda fun, y, theta: tk.Solution(made, tk.SolveInfo(0, 1, 0.0))


OWN_SOLVERS = [
    Row(
        "callable_that_ignores_a_nan_start",
        hyper(solver=answering(1), y0=Y0 * NAN),
        Right(GRADIENT),
    ),
    Row("callable_that_lies", hyper(solver=claiming(Y0)), Flagged(Issue.INNER_NOT_CONVERGED)),
    Row(
        "callable_that_lies_from_infinity",
        hyper(solver=claiming(Y0 + 1e3), y0=Y0 + INF),
        Flagged(Issue.INNER_NOT_CONVERGED),
    ),
    Row(
        "callable_without_steps",
        value(solver=answering(None)),
        Refused(r"`solver` must return .*an integer `steps`: .*None"),
    ),
    Row(
        "callable_with_integers",
        value(solver=claiming(np.ones(2, int))),
        Refused(r"the value of <lambda> must have the shapes .*got int64\[2\], expected float64"),
    ),
    Row(
        "callable_with_an_array",
        value(solver=lambda f, y, t: y),
        Refused(r"`solver` must return tk\.Solution\(value, info\)"),
    ),
    Row(
        "callable_unrolled",
        value(solver=answering(1), adjoint=Unroll()),
        Refused("`solver` must show its steps .*Implicit"),
    ),
]


@each(INPUTS_OF_STEPS)
def test_each_step_needs_an_input(row: Row) -> None:
    check(row)


@each(STARTS_OF_THE_LINEAR_SYSTEM)
def test_the_linear_system_starts_from_a_tree_like_y(row: Row) -> None:
    check(row)


@each(OWN_SOLVERS)
def test_a_solver_of_ones_own_is_not_believed(row: Row) -> None:
    check(row)
