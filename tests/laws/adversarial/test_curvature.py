"""Hessians and Jacobians that are ill conditioned, indefinite or singular."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import toolkit as tk
from tests.laws.adversarial.calls import (
    NEWTON,
    PICARD,
    RULES,
    Y0,
    Flagged,
    Right,
    Row,
    check,
    each,
    f32,
    hyper,
    linear,
    total,
)
from toolkit.adjoint import Implicit, Nudged
from toolkit.linear import CG, GMRES, Dense, Neumann, Nystrom
from toolkit.solver import FixedPointIteration, GradientDescent, Newton
from toolkit.types import Issue, Status

ONES = np.ones(3)
_ROTATION, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
POOR = (_ROTATION * [1.0, 1e-6, 1e-12]) @ _ROTATION.T  # condition number 1e12
UNSOLVED = Flagged(Issue.LINEAR_NOT_CONVERGED)
INDEFINITE = Flagged(Issue.NEGATIVE_CURVATURE)


def poor_bowl(y, t):
    return 0.5 * jnp.sum(jnp.asarray([1, 1e-12], y.dtype) * (y - t) ** 2)


def saddle(y, t):
    return 0.5 * (y[0] ** 2 - y[1] ** 2) - y @ t


def double_well(y, t):
    return jnp.sum(0.25 * (y**2 - 1) ** 2 - 0.05 * t * y)


def valley(y, t):
    return 0.5 * (y[0] - t[0]) ** 2


def poorly_conditioned(cast, **settings):
    return hyper(poor_bowl, NEWTON, cast(Y0), cast(Y0 + 1), total, **settings)


ILL_CONDITIONED = [
    Row("condition_1e12_float64_dense", poorly_conditioned(jnp.asarray), Right(np.ones(2))),
    Row("condition_1e12_float32_dense", poorly_conditioned(f32), Right(np.ones(2), flags=True)),
    *[
        Row(
            f"condition_1e12_{name}_neumann",
            poorly_conditioned(cast, adjoint=Implicit(Neumann(50))),
            UNSOLVED,
        )
        for name, cast in {"float32": f32, "float64": jnp.asarray}.items()
    ],
    Row(
        "condition_1e12_linear_float64",
        linear(Dense(), POOR, POOR @ ONES),
        Right(ONES, 1e-3),
    ),
    # In float32 the matrix itself is off by more than its smallest eigenvalue.
    Row(
        "condition_1e12_linear_float32",
        linear(Dense(), POOR, f32(POOR @ ONES)),
        Flagged(Status.STEP_LIMIT),
    ),
    Row(
        "condition_1e12_linear_cg",
        linear(CG(5, 1e-6), POOR, f32(ONES)),
        Flagged(Status.STEP_LIMIT),
    ),
    Row(
        "condition_1e12_linear_gmres",
        linear(GMRES(3, 1e-6), POOR, f32(ONES)),
        Flagged(Status.STEP_LIMIT),
    ),
]

NEGATIVE = [
    Row("saddle_dense", hyper(saddle, NEWTON, outer=total), INDEFINITE),
    Row(
        "saddle_cg",
        hyper(saddle, NEWTON, outer=lambda y, t: y[1], adjoint=Implicit(CG(9, 1e-9))),
        INDEFINITE,
    ),
    Row(
        "saddle_nystrom",
        hyper(saddle, NEWTON, outer=total, adjoint=Implicit(Nystrom(2, 1e-6))),
        Flagged(Issue.NEGATIVE_CURVATURE | Issue.NOT_FINITE),
    ),
    Row(
        "saddle_neumann",
        hyper(saddle, NEWTON, outer=total, adjoint=Implicit(Neumann(50))),
        UNSOLVED,
    ),
    # J = diag(1, -1) is regular: right for a solver of general systems.
    Row(
        "saddle_gmres",
        hyper(saddle, NEWTON, outer=total, adjoint=Implicit(GMRES(9, 1e-9))),
        Right([1.0, -1.0], flags=True),
    ),
    Row(
        "newton_at_a_maximum",
        hyper(double_well, NEWTON, y0=np.zeros(1), theta=np.ones(1)),
        INDEFINITE,
    ),
]

SINGULAR = [
    Row(
        "quartic_minimum",
        hyper(lambda y, t: jnp.sum(y**4 - t * y), theta=Y0, outer=total),
        UNSOLVED,
    ),
    Row(
        "double_root",
        hyper(lambda y, t: (y - t) ** 2, Newton(60, 1e-12), y0=Y0 + 1, theta=Y0, make=tk.root),
        Flagged(Issue.INNER_NOT_CONVERGED),
    ),
    Row(
        "map_of_slope_one",
        hyper(lambda y, t: y + 0 * t, PICARD, make=tk.fixed_point, outer=total),
        UNSOLVED,
    ),
    Row(
        "expanding_map",
        hyper(lambda y, t: 2 * y + t, FixedPointIteration(30, 1e-9), make=tk.fixed_point),
        Flagged(Issue.INNER_NOT_CONVERGED),
    ),
    *[
        Row(
            f"singular_hessian_{name}",
            hyper(valley, outer=total, adjoint=RULES[name]),
            UNSOLVED,
        )
        for name in ("implicit", "implicit_cg", "implicit_gmres")
    ],
]

NUDGES = [
    Row(
        "nudge_out_of_its_basin",
        hyper(
            double_well,
            GradientDescent(0.1, 300),
            y0=np.ones(1),
            theta=np.ones(1),
            adjoint=Nudged(10.0),
        ),
        Flagged(Issue.NOT_FINITE),
    ),
    Row("nudge_below_rounding", hyper(adjoint=Nudged(1e-30)), Flagged(Issue.NOT_FINITE)),
    Row(
        "nudge_of_array_zero",
        hyper(adjoint=Nudged(jnp.asarray(0.0))),
        Flagged(Issue.NOT_FINITE),
    ),
]


@each(ILL_CONDITIONED)
def test_an_ill_conditioned_system_is_solved_or_flagged(row: Row) -> None:
    check(row)


@each(NEGATIVE)
def test_negative_curvature_is_flagged(row: Row) -> None:
    check(row)


@each(SINGULAR)
def test_a_singular_system_is_flagged(row: Row) -> None:
    check(row)


@each(NUDGES)
def test_a_nudge_too_large_or_too_small_is_flagged(row: Row) -> None:
    check(row)
