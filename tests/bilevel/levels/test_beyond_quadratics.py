"""Levels that are not quadratic, against difference quotients and derivatives that are written out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.bilevel.levels.quadratics import AT_X, AT_Y, BY_X, BY_Y, DESCENT, EXACT, STEP, G, X
from toolkit.adjoint import Implicit, OneStep, Stopped
from toolkit.bilevel import Level, nested


def _h(x: Any, y: Any, z: Any) -> jax.Array:
    mixed = jnp.sin(jnp.asarray(BY_Y) @ y + jnp.asarray(BY_X) @ x)
    return (
        0.5 * jnp.sum((z - mixed) ** 2)
        + 0.1 * jnp.sum(z**4)
        + 0.2 * jnp.sum(z * jnp.roll(z, 1) * mixed)
    )


def _g(x: Any, y: Any, z: Any) -> jax.Array:
    pull = jnp.sum((y - jnp.tanh(jnp.asarray(G.Q[AT_Y, AT_X]) @ x)) ** 2)
    return pull + 0.3 * jnp.sum(jnp.cos(z) * (1 + y[0] * y[1])) + 0.05 * jnp.sum(z**3)


def _f(x: Any, y: Any, z: Any) -> jax.Array:
    return jnp.sum((y - 1) ** 2) + jnp.sum(z**3) + jnp.sum(x**2) * jnp.sum(z)


def _wrapped(value: jax.Array) -> dict[str, Any]:
    return {"first": value[:1], "rest": value[1:], "count": 3, "label": None}


def _flat(value: Any) -> jax.Array:
    return jnp.concatenate([value["first"], value["rest"]])


@pytest.mark.slow
def test_beyond_quadratics_the_difference_quotient() -> None:
    """On trees with carried leaves."""
    of_trees = lambda fun: lambda x, y, z: fun(_flat(x), _flat(y), _flat(z))
    y = Level("y", of_trees(_g), DESCENT, _wrapped(jnp.zeros(3)), EXACT)
    z = Level("z", of_trees(_h), DESCENT, _wrapped(jnp.zeros(4)), EXACT)

    def value(x: jax.Array) -> tuple[jax.Array, Any]:
        at = nested(y, z)(x=_wrapped(x))
        counts = (at.values["y"]["count"], at.values["z"]["count"])
        return of_trees(_f)(x=_wrapped(x), **at.values), (at.status, counts)

    (_, (status, counts)), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(X)
    assert status == 0 and counts == (3, 3)
    h, steps = 1e-4, 1e-4 * np.eye(2)
    values, _ = jax.jit(jax.vmap(value))(jnp.concatenate([X + steps, X - steps]))
    # h^2 f''' / 6 and rounding / h are both about 1e-9.
    np.testing.assert_allclose(gradient, (values[:2] - values[2:]) / (2 * h), rtol=1e-6)


def _tangents(damping: float, x: Any, y: Any, z: Any) -> tuple[jax.Array, jax.Array]:
    """`-(h_zz + damping)^{-1}` times h_zx and h_zy, written out."""
    slope = jax.grad(_h, 2)
    curvature = jax.jacobian(slope, 2)(x, y, z) + damping * jnp.eye(4)
    return tuple(-jnp.linalg.solve(curvature, jax.jacobian(slope, i)(x, y, z)) for i in (0, 1))


def _by_tangents(damping: float, one_step_x: bool, y: Any, z: Any) -> tuple[Any, Any]:
    """(residual of level y, hypergradient), by Jacobians of explicit functions.

    `z_own` is where z enters through the rule along y, whose derivative is its own along all edges.
    """

    def condition(x: Any, y: Any, z: Any, z_own: Any) -> jax.Array:
        by_y = _tangents(damping, x, y, z_own)[1]
        return jax.grad(_g, 1)(x, y, z) + by_y.T @ jax.grad(_g, 2)(x, y, z)

    own_x, by_y = _tangents(damping, X, y, z)
    by_x = -STEP * jax.jacobian(jax.grad(_h, 2), 0)(X, y, z) if one_step_x else own_x
    in_x, in_y, in_z, in_own = jax.jacobian(condition, (0, 1, 2, 3))(X, y, z, z)
    matrix = in_y + (in_z + in_own) @ by_y
    y_by_x = -jnp.linalg.solve(matrix, in_x + in_z @ by_x + in_own @ own_x)
    f_x, f_y, f_z = jax.grad(_f, (0, 1, 2))(X, y, z)
    gradient = f_x + by_x.T @ f_z + y_by_x.T @ (f_y + by_y.T @ f_z)
    return condition(X, y, z, z), gradient


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damping", "edges"), [(0.7, {"x": OneStep()}), (0.7, {}), (0.0, {"x": Implicit()})]
)
def test_approximate_rules_beyond_quadratics(damping: float, edges: Any) -> None:
    """A damped rule along one edge, and another along the other."""
    one_step_x = isinstance(edges.get("x"), OneStep)
    z_rule = Implicit(damping=damping)
    y_level = Level("y", _g, DESCENT, jnp.zeros(3), EXACT)
    solve = nested(y_level, Level("z", _h, DESCENT, jnp.zeros(4), z_rule, edges))

    def value(x: jax.Array) -> tuple[jax.Array, Any]:
        at = solve(x=x)
        return _f(x, **at.values), at

    (_, at), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(X)
    residual, expected = jax.jit(_by_tangents, static_argnums=(0, 1))(
        damping, one_step_x, at.values["y"], at.values["z"]
    )
    assert at.status == 0
    np.testing.assert_allclose(residual, 0, atol=1e-10)
    np.testing.assert_allclose(gradient, expected, rtol=1e-7)


@pytest.mark.slow
def test_reverse_mode_is_forward_mode_above_edges_of_different_rules() -> None:
    """What level y follows has then a derivative that is not symmetric; the two modes transpose it."""
    at_y, at_z = jnp.asarray(BY_Y[:2, :2]), jnp.asarray(BY_Y[:2, 1:3])
    fun_w = lambda y, z, w: (
        0.5 * jnp.sum((w - jnp.sin(at_y @ y + at_z @ z)) ** 2) + 0.1 * jnp.sum(w**4)
    )
    fun_z = lambda x, y, z, w: jnp.sum((z - jnp.tanh(x * y)) ** 2) + 0.3 * jnp.sum(jnp.cos(w) * z)
    fun_y = lambda x, y, z, w: jnp.sum((y - x) ** 2) + 0.3 * z[0] * z[1] + jnp.sum(jnp.sin(w + 1))
    solver = tk.solver.GradientDescent(0.4, 50)
    start = jnp.zeros(2)
    levels = (
        Level("y", fun_y, solver, start, Implicit()),
        Level("z", fun_z, solver, start, OneStep()),
        Level("w", fun_w, solver, start, OneStep(), {"y": Stopped()}),
    )
    value = lambda x: (1.0 + x) @ nested(*levels)(x=x).values["y"]
    reverse, forward = jax.jit(jax.grad(value))(X), jax.jit(jax.jacfwd(value))(X)
    np.testing.assert_allclose(reverse, forward, rtol=1e-8)
