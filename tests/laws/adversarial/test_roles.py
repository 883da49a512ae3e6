"""What is put where something else belongs, and what does not go together."""

from __future__ import annotations

import optax

import toolkit as tk
from tests.laws.adversarial.calls import (
    DESCENT,
    GRADIENT,
    NEWTON,
    PICARD,
    Refused,
    Right,
    Row,
    check,
    each,
    hyper,
    quadratic,
    value,
)
from toolkit.adjoint import Implicit, Nudged, Reversible, Unroll
from toolkit.linear import CG
from toolkit.solver import (
    LBFGS,
    GradientDescent,
    Newton,
    Optax,
    ProximalGradient,
)

ROLES = [
    Row(
        "solver_class",
        lambda: tk.argmin(quadratic, GradientDescent),
        Refused(r"`solver` must be one of tk\.solver, such as .*got <class '.*'>", TypeError),
    ),
    Row(
        "solver_string",
        lambda: tk.fixed_point(quadratic, "picard"),
        Refused(r"`solver` must be one of tk\.solver.*got 'picard'", TypeError),
    ),
    Row(
        "adjoint_class",
        lambda: tk.argmin(quadratic, DESCENT, adjoint=Implicit),
        Refused(
            r"`adjoint` must be one of tk\.adjoint, such as Implicit.*got <class '.*'>", TypeError
        ),
    ),
    Row(
        "adjoint_string",
        lambda: tk.root(quadratic, NEWTON, adjoint="implicit"),
        Refused(r"`adjoint` must be one of tk\.adjoint, .*got 'implicit'", TypeError),
    ),
    Row("adjoint_none", hyper(adjoint=None), Right(GRADIENT)),
    Row(
        "fun_string",
        lambda: tk.argmin("loss", DESCENT),
        Refused("`fun` must be callable: got s", TypeError),
    ),
    Row(
        "linear_solver_class",
        lambda: Implicit(CG),
        Refused(
            r"`linear_solver` must be None, one of tk\.linear, such as .*got <class '.*'>",
            TypeError,
        ),
    ),
    Row(
        "linear_solver_string",
        lambda: Newton(9, 1e-6, "cg"),
        Refused(r"`linear_solver` must be None, one of tk\.linear, .*got 'cg'", TypeError),
    ),
    Row(
        "descent_for_a_linear_solver",
        lambda: Implicit(DESCENT),
        Refused(r"`linear_solver` must be .*got GradientDesce", TypeError),
    ),
    Row(
        "optax_function",
        lambda: Optax(optax.adam, 9),
        Refused("`optimizer` must be an optax transformation.*got <function", TypeError),
    ),
    Row(
        "prox_string",
        lambda: ProximalGradient("lasso", 0.1, 9, 1e-6),
        Refused(r"`prox` must be a callable .*such as tk\.prox\.lasso: got 'lasso'"),
    ),
    Row(
        "prox_returns_a_slice",
        value(solver=ProximalGradient(lambda y, t, s: y[:1], 0.1, 9, 1e-6)),
        Refused(r"`prox` must return a tree like its first argument: got float64\[1\], expected"),
    ),
]

PAIRS = [
    Row(
        "nudged_root",
        value(lambda y, t: y - t, NEWTON, make=tk.root, adjoint=Nudged(0.1)),
        Refused(r"`adjoint` Nudged needs tk\.argmin, .*got tk\.root; use Implicit"),
    ),
    Row(
        "reversible_newton",
        value(solver=NEWTON, adjoint=Reversible()),
        Refused(
            r"`solver` must be tk\.solver\.GradientDescent .*got Newton.*use the adjoint Unroll"
        ),
    ),
    Row(
        "root_by_descent",
        value(lambda y, t: y - t, make=tk.root),
        Refused(r"`solver` must solve `root`: got GradientDescent, .*use tk\.solver\.Newton"),
    ),
    Row(
        "argmin_by_picard",
        value(solver=PICARD),
        Refused(r"`solver` must solve `argmin`: got FixedPoint.*use tk\.solver"),
    ),
    Row(
        "unrolled_line_search",
        value(solver=LBFGS(9, 1e-6), adjoint=Unroll()),
        Refused(r"`solver` must have steps that reverse mode can cross .*got LBFGS.*Implicit"),
    ),
]


@each(ROLES)
def test_a_role_is_played_by_its_own_kind(row: Row) -> None:
    check(row)


@each(PAIRS)
def test_what_does_not_go_together_is_refused(row: Row) -> None:
    check(row)
