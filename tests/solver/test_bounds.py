"""Bounds as solvers take them: what is read as a pair, what is refused, and the condition that they make."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toolkit.solver.bounds import clip, limits, optimality

Y = {"a": jnp.array([0.5, 2.0, -3.0]), "b": jnp.array(4.0, jnp.float32), "n": None}
THETA = jnp.array([0.0, 1.0, 3.0])
PROBLEM = SimpleNamespace(user_theta=lambda theta: theta)
of = lambda bounds, y=Y: limits(bounds, PROBLEM, y, THETA)

FORMS = {
    "numbers": (0, 1),
    "a list": [0.0, 1.0],
    "arrays": (np.zeros(()), jnp.ones(())),
    "a callable": lambda theta: (theta[0], theta[1]),
    "a tree without the carried leaf": ({"a": 0.0, "b": 0, "n": None}, 1.0),
    "a tree with it": (0, {"a": np.ones(3), "b": 1.0, "n": "anything"}),
}


@pytest.mark.parametrize("bounds", FORMS.values(), ids=FORMS)
def test_forms(bounds):
    found = of(bounds)
    assert jax.tree.map(jnp.shape, found.lower) == jax.tree.map(jnp.shape, Y)
    assert found.upper["b"].dtype == jnp.float32
    clipped = clip(Y, found)
    np.testing.assert_array_equal(clipped["a"], [0.5, 1.0, 0.0])
    assert clipped["b"] == 1 and clipped["b"].dtype == jnp.float32


EXPECTED = "must be one array, or a tree of arrays, that broadcasts to"
REFUSED = {
    "no lower": ((None, 1.0), rf"`bounds\[0\]` {EXPECTED} .*: got None\."),
    "a shape": ((0.0, jnp.zeros(2)), rf"`bounds\[1\]` {EXPECTED} .*: got "),
    "a structure": (({"a": 0.0}, 1.0), rf"`bounds\[0\]` {EXPECTED} .*: got "),
    "complex": ((0.0, 1j), r"`bounds\[1\]` must be real: got complex128\[\]\."),
    "no pair returned": (
        lambda theta: theta,
        r"`bounds` must return a pair \(lower, upper\) from theta: got float64\[3\]\.",
    ),
}


@pytest.mark.parametrize(("bounds", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals(bounds, message):
    with pytest.raises(ValueError, match=message):
        of(bounds)


def test_other_refusals():
    with pytest.raises(TypeError, match=r"`bounds` must take \(theta\): got \(\)\."):
        of(lambda: (0.0, 1.0))
    with pytest.raises(ValueError, match=r"`y0` must be real where a solver has `bounds`: got"):
        of((0.0, 1.0), jnp.zeros(2, complex))


def test_one_empty_interval_leaves_no_point():
    found = clip(Y["a"], of((jnp.array([0.0, 2.0, 0.0]), 1.0), Y["a"]))
    assert jnp.all(jnp.isnan(found))


def test_optimality_is_exact_for_gradients_below_the_rounding_of_y():
    y = jnp.array([1e3, 1e3, 1e3, 1e3])
    gradient = jnp.array([1e-20, -1e-20, 1e-20, -1e-20])
    bounds = (jnp.array([-jnp.inf, -jnp.inf, 1e3, 1e3]), jnp.inf)
    found = optimality(y, gradient, of(bounds, y))
    np.testing.assert_array_equal(found, [1e-20, -1e-20, 0.0, -1e-20])
    moved = jax.jacfwd(lambda y: optimality(y, gradient, of(bounds, y)))(y)
    np.testing.assert_array_equal(moved, np.diag([0.0, 0.0, 1.0, 0.0]))
