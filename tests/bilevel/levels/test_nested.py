"""Nested levels, against eliminations in numpy, and each rule against its own formula on quadratics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.bilevel.levels.quadratics import (
    AT_Y,
    CURVATURE,
    DESCENT,
    EXACT,
    EXACT_GRADIENT,
    EXACT_Y,
    INVERSE,
    NAMES,
    NONE,
    ONE,
    STEP,
    F,
    G,
    H,
    Response,
    X,
    blocks_of,
    by_rules,
    eliminate,
    levels_of,
    random_quadratic,
    response_of,
)
from toolkit.adjoint import Forward, Implicit, OneStep, Stopped, Unroll
from toolkit.bilevel import Level, nested
from toolkit.linear import CG


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_quadratic_levels_are_the_elimination(count: int) -> None:
    """All values and the hypergradient, of three and of four levels, two x at a time."""
    functions = [random_quadratic(count + 1) for _ in range(count)]
    outer = random_quadratic(count + 1)
    P, p = eliminate(functions)
    solve = nested(*levels_of(functions))

    def value(x: jax.Array) -> tuple[jax.Array, Any]:
        at = solve(x=x)
        return outer.at(x=x, **at.values), at

    xs = jnp.stack([X, X + 1])
    (values, at), gradients = jax.jit(jax.vmap(jax.value_and_grad(value, has_aux=True)))(xs)
    for i, x in enumerate(np.asarray(xs)):
        u = P @ x + p
        for name, block in zip(NAMES[1:], blocks_of(count + 1)[1:], strict=False):
            np.testing.assert_allclose(at.values[name][i], u[block], rtol=1e-9)
        np.testing.assert_allclose(values[i], u @ outer.Q @ u / 2 + outer.q @ u, rtol=1e-9)
        np.testing.assert_allclose(gradients[i], P.T @ (outer.Q @ u + outer.q), rtol=1e-9)
    np.testing.assert_array_equal(at.status, [0, 0])


def _relative(got: np.ndarray, to: np.ndarray) -> float:
    return float(np.linalg.norm(got - to) / np.linalg.norm(to))


DAMPED = np.linalg.inv(CURVATURE + 0.4 * np.eye(4))
SHORT = 5
ITERATED = 0.3 * sum(np.linalg.matrix_power(np.eye(4) - 0.3 * CURVATURE, k) for k in range(SHORT))


class Rules(NamedTuple):
    """Rules of levels z and y, and what they come to."""

    z: dict[str, Any]
    expected: Response
    y: dict[str, Any] = {"adjoint": EXACT}  # noqa: RUF012
    inverse: Callable = np.linalg.inv


def _one_step(matrix: np.ndarray) -> np.ndarray:
    return STEP * np.eye(len(matrix))


RULES = {
    "exact, but x to z stopped": Rules(
        {"adjoint": EXACT, "edges": {"x": Stopped()}}, response_of(NONE, INVERSE)
    ),
    "exact, but y to z stopped": Rules(
        {"adjoint": EXACT, "edges": {"y": Stopped()}}, response_of(INVERSE, NONE)
    ),
    "z stopped": Rules({"adjoint": Stopped()}, response_of(NONE, NONE)),
    "z by one step": Rules({"adjoint": OneStep()}, response_of(ONE, ONE)),
    "both by one step": Rules(
        {"adjoint": OneStep()}, response_of(ONE, ONE), {"adjoint": OneStep()}, _one_step
    ),
    "z by a few steps": Rules(
        {"adjoint": Unroll(), "solver": tk.solver.GradientDescent(0.3, SHORT)},
        response_of(ITERATED, ITERATED, ITERATED),
    ),
    "both unrolled": Rules(
        {"adjoint": Unroll()}, response_of(INVERSE, INVERSE), {"adjoint": Unroll()}
    ),
    "z damped": Rules(
        {"adjoint": Implicit(CG(30, 1e-13), damping=0.4)},
        response_of(DAMPED, DAMPED),
        {"adjoint": Implicit()},
    ),
    "z damped, y unrolled": Rules(
        {"adjoint": Implicit(CG(30, 1e-13), damping=0.4)},
        response_of(DAMPED, DAMPED),
        {"adjoint": Unroll()},
    ),
    "a rule an edge": Rules(
        {"edges": {"x": OneStep(), "y": Unroll(forward_mode=True)}}, response_of(ONE, INVERSE)
    ),
    "another rule an edge": Rules(
        {"adjoint": OneStep(), "edges": {"x": Forward()}}, response_of(INVERSE, ONE)
    ),
}
QUICK = {"both by one step", "z by a few steps"}


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in RULES]
)
def test_a_rule_is_its_formula(name: str) -> None:
    rules = RULES[name]
    y = Level("y", G.at, **({"solver": DESCENT, "start": jnp.zeros(3)} | rules.y))
    z = Level("z", H.at, **({"solver": DESCENT, "start": jnp.zeros(4)} | rules.z))
    solve = nested(y, z)

    def value(x: jax.Array) -> tuple[jax.Array, Any]:
        values = solve(x=x).values
        return F.at(x=x, **values), values

    (_, values), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(X)
    expected_y, expected = by_rules(rules.expected, rules.inverse)
    np.testing.assert_allclose(values["y"], expected_y, rtol=1e-9)
    np.testing.assert_allclose(gradient, expected, rtol=1e-8)


def test_the_classic_mistakes_are_far_from_the_exact_derivative() -> None:
    """So that the exact numbers cannot be met by z held constant where level y looks."""
    P, p = eliminate([G, H])
    u = P @ X + p
    np.testing.assert_allclose(EXACT_Y, u[AT_Y], rtol=1e-12)
    np.testing.assert_allclose(EXACT_GRADIENT, P.T @ (F.Q @ u + F.q), rtol=1e-12)
    y, gradient = by_rules(response_of(NONE, NONE))  # z constant in level y: another equilibrium
    assert _relative(y, EXACT_Y) > 0.01 and _relative(gradient, EXACT_GRADIENT) > 0.01
    half = lambda _: np.linalg.inv(G.Q[AT_Y, AT_Y])  # g_yy where G_yy belongs, at the exact y
    assert _relative(by_rules(response_of(INVERSE, INVERSE), half)[1], EXACT_GRADIENT) > 0.01


def test_identities_for_inverse_hessians_are_biased() -> None:
    """One-step rules on every edge, as Betty's: the bias is that of their formula."""
    y, gradient = by_rules(response_of(ONE, ONE), _one_step)
    assert 0.1 < _relative(y, EXACT_Y) < 0.2 and 0.1 < _relative(gradient, EXACT_GRADIENT) < 0.2
