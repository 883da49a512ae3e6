"""The user's functions: what they return, and what they do not depend on."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import toolkit as tk
from tests.laws.adversarial.calls import (
    KINDS,
    NEWTON,
    PICARD,
    RULES,
    THETA,
    Y0,
    Flagged,
    Refused,
    Right,
    Row,
    check,
    each,
    f32,
    hyper,
    square,
    total,
    value,
)
from toolkit.adjoint import Unroll
from toolkit.solver import GradientDescent, Newton
from toolkit.types import Issue, Status


def objective(got: str) -> Refused:
    return Refused(
        rf"`fun` must return a real scalar under argmin: got {got}; .*has_aux=True.*tk\.root"
    )


OBJECTIVES = [
    *[
        Row(f"objective_returns_{name}", value(fun), objective(got))
        for name, fun, got in (
            ("vector", lambda y, t: y, r"float64\[2\]"),
            ("complex", lambda y, t: 1j * total(y, t), r"complex128\[\]"),
            ("integer", lambda y, t: 3, r"int64\[\]"),
            ("none", lambda y, t: None, "None"),
            ("string", lambda y, t: "loss", "str"),
            (
                "pair_without_has_aux",
                lambda y, t: (square(y, t), 1.0),
                r"\(float64\[\], float64\[\]\)",
            ),
            ("list", lambda y, t: [square(y, t)], r"\[float64\[\]\]"),
            ("dict", lambda y, t: {"loss": square(y, t)}, r"\{loss: float64\[\]\}"),
        )
    ],
    Row(
        "aux_without_pair",
        value(has_aux=True),
        Refused(r"`fun` must return a pair \(value, aux\) with has_aux=True"),
    ),
    *[
        Row(
            f"outer_returns_{name}",
            hyper(outer=outer),
            Refused(rf"`outer` must return a real scalar: got {got}"),
        )
        for name, outer, got in (
            ("vector", lambda y, t: y, r"float64\[2\]"),
            ("complex", lambda y, t: 1j * total(y, t), r"complex128\[\]"),
            ("integer", lambda y, t: 3, r"int64\[\]"),
        )
    ],
]

EQUATIONS = [
    Row(
        f"{kind}_returns_{name}",
        value(fun, solver, make=make),
        Refused(
            rf"`fun` must (return|have the shapes).*`y`: got {got}, expected float64\[2\]",
        ),
    )
    for kind, solver, make in (("root", NEWTON, tk.root), ("map", PICARD, tk.fixed_point))
    for name, fun, got in (
        ("tuple", lambda y, t: (y,), r"\(float64\[2\],\)"),
        ("slice", lambda y, t: y[:1], r"float64\[1\]"),
        ("float32", lambda y, t: f32(y), r"float32\[2\]"),
        ("integers", lambda y, t: y.astype(int), r"int64\[2\]"),
        ("complex", lambda y, t: 1j * y, r"complex128\[2\]"),
        ("none", lambda y, t: None, "None"),
        ("string", lambda y, t: "y", "str"),
    )
]

INDEPENDENT = [
    Row("objective_of_neither", hyper(lambda y, t: 0.0, adjoint=Unroll()), Right(np.zeros(2))),
    Row(
        "objective_without_y_is_singular",
        hyper(lambda y, t: total(t, y)),
        Flagged(Issue.LINEAR_NOT_CONVERGED),
    ),
    Row(
        "root_without_y_is_singular",
        value(lambda y, t: t, Newton(5, 1e-9), make=tk.root),
        Flagged(Status.STEP_LIMIT),
    ),
    Row("map_without_y", hyper(lambda y, t: t, PICARD, make=tk.fixed_point), Right(2 * THETA)),
    *[
        Row(
            f"objective_without_theta_{name}",
            hyper(lambda y, t: square(y - 1, t), adjoint=rule),
            Right(np.zeros(2)),
            slow=name != "implicit",
        )
        for name, rule in KINDS.items()
    ],
    *[
        Row(
            f"outer_without_y_{name}",
            hyper(outer=lambda y, t: jnp.sum(t**2), adjoint=RULES[name]),
            Right(2 * THETA),
        )
        for name in ("implicit", "implicit_cg", "unroll", "nudged")
    ],
]

KINKED = [
    Row(
        "step_function",
        hyper(lambda y, t: jnp.sum(jnp.where(y > t, 1.0, 0.0) + 0.5 * y**2), y0=Y0 + 3),
        Right(np.zeros(2)),  # its derivative almost everywhere
    ),
    Row(
        "kink_at_the_minimum",
        hyper(lambda y, t: jnp.sum(jnp.abs(y - t)), GradientDescent(0.3, 50)),
        Flagged(Issue.INNER_NOT_CONVERGED | Issue.LINEAR_NOT_CONVERGED),
    ),
]


@each(OBJECTIVES)
def test_an_objective_must_be_a_real_scalar(row: Row) -> None:
    check(row)


@each(EQUATIONS)
def test_an_equation_must_return_what_it_is_given(row: Row) -> None:
    check(row)


@each(INDEPENDENT)
def test_what_a_function_does_not_depend_on_has_no_derivative(row: Row) -> None:
    check(row)


@each(KINKED)
def test_kinks_are_right_almost_everywhere_and_told_where_not(row: Row) -> None:
    check(row)
