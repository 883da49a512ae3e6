"""NaN and Inf that come in: no rule and no solver turns them into numbers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax

import toolkit as tk
from tests.laws.adversarial.calls import (
    INF,
    KINDS,
    NAN,
    NEWTON,
    PICARD,
    RULES,
    THETA,
    Y0,
    Flagged,
    Refused,
    Row,
    check,
    each,
    halved,
    hyper,
    quadratic,
    total,
    value,
    weighted,
)
from toolkit.adjoint import Implicit, Unroll
from toolkit.linear import CG
from toolkit.solver import LBFGS, Anderson, GradientDescent, Optax, ProjectedGradient
from toolkit.solver import ProximalGradient as Proximal
from toolkit.types import Issue, Status

NOT_FINITE = Flagged(Issue.NOT_FINITE, nan=True)
UNSOLVED = Flagged(Status.NOT_FINITE, nan=True)


def closed_over(y, theta):
    return quadratic(y, theta) + jnp.sum(np.asarray([1.0, NAN]) * y)


UNDER_RULES = [
    *[
        Row(f"nan_in_y0_{name}", hyper(y0=Y0 * NAN, adjoint=KINDS[name]), NOT_FINITE)
        for name in KINDS
    ],
    *[
        Row(f"inf_in_theta_{name}", hyper(theta=THETA * INF, adjoint=RULES[name]), NOT_FINITE)
        for name in ("implicit", "unroll", "nudged")
    ],
    *[
        Row(
            f"nan_in_closed_over_data_{name}",
            hyper(closed_over, adjoint=RULES[name]),
            NOT_FINITE,
            slow=name != "implicit",
        )
        for name in ("implicit", "unroll", "nudged")
    ],
]

UNDER_SOLVERS = [
    *[
        Row(f"nan_in_theta_{name}", value(solver=solver, theta=THETA * NAN), UNSOLVED)
        for name, solver in {
            "lbfgs": LBFGS(20, 1e-6),
            "newton": NEWTON,
            "adam": Optax(optax.adam(0.1), 20),
            "proximal": Proximal(lambda y, theta, s: y, 0.4, 20, 1e-6),
            "projected": ProjectedGradient(lambda y, theta: jnp.clip(y, -1, 1), 0.4, 20, 1e-6),
        }.items()
    ],
    *[
        Row(
            f"inf_in_theta_of_a_map_{name}",
            value(halved, solver, theta=THETA * INF, make=tk.fixed_point),
            UNSOLVED,
        )
        for name, solver in {
            "picard": PICARD,
            "anderson": Anderson(20, 1e-6),
            "newton": NEWTON,
        }.items()
    ],
]

ELSEWHERE = [
    Row(
        "nan_in_xs",
        hyper(weighted, xs=np.where(np.arange(80) == 40, NAN, 1.0), adjoint=Unroll()),
        NOT_FINITE,
    ),
    Row("nan_in_outer", hyper(outer=lambda y, theta: total(y, theta) + NAN), NOT_FINITE),
    Row(
        "nan_in_damping",
        lambda: Implicit(damping=NAN),
        Refused("`damping` must be a nonnegative number: got nan"),
    ),
    Row(
        "nan_in_damping_array",
        hyper(adjoint=Implicit(damping=jnp.asarray(NAN))),
        Flagged(Issue.NOT_FINITE),
    ),
    Row(
        "nan_in_v0",
        hyper(v0=Y0 * NAN, adjoint=Implicit(CG(50, 1e-9))),
        Flagged(Issue.NOT_FINITE),
    ),
    Row(
        "nan_from_prox",
        value(solver=Proximal(lambda y, theta, s: y * NAN, 0.1, 20, 1e-6)),
        UNSOLVED,
    ),
    Row(
        "nan_in_momentum_array",
        lambda: GradientDescent(0.1, 3, np.asarray([0.1, NAN, 0.1])),
        Refused(r"`momentum` must be a number, not NaN: got an entry nan"),
    ),
]


@each(UNDER_RULES)
def test_no_rule_makes_a_number_of_it(row: Row) -> None:
    check(row)


@each(UNDER_SOLVERS)
def test_no_solver_makes_a_number_of_it(row: Row) -> None:
    check(row)


@each(ELSEWHERE)
def test_wherever_it_comes_in_it_is_seen(row: Row) -> None:
    check(row)
