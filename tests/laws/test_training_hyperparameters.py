"""All that training depends on is a hyperparameter: the families of Maclaurin et al. 2015, section 3.

A small network is trained by momentum gradient descent with a step size and a momentum a step, from a
learned start, on learned data and labels, under learned penalties, a scale a layer for the start, and
weights of its examples. Every rule that follows the steps gives the gradient of the loop written out.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.adjoint import Forward, Reversible, Truncated, Unroll

STEPS = 12
_random = np.random.default_rng(2)
_normal = lambda *shape: jnp.asarray(_random.normal(size=shape))
THETA = {
    "step_sizes": jnp.linspace(0.3, 0.1, STEPS),
    "momenta": jnp.linspace(0.5, 0.9, STEPS),
    "start": {"w": _normal(3, 4) / 2, "b": 0.1 * _normal(4), "v": _normal(4) / 2},
    "layer_scales": jnp.asarray([0.9, 1.1]),
    "data": _normal(6, 3),
    "targets": _normal(6),
    "example_weights": jnp.linspace(-1.0, 1.0, 6),
    "penalties": {"w": _normal(3, 4) - 3, "b": _normal(4) - 3, "v": _normal(4) - 3},
}
HELD_OUT = (_normal(8, 3), _normal(8))


def _predict(y: Any, data: jax.Array) -> jax.Array:
    return jnp.tanh(data @ y["w"] + y["b"]) @ y["v"]


def inner(y: Any, theta: Any) -> jax.Array:
    errors = (_predict(y, theta["data"]) - theta["targets"]) ** 2
    penalty = sum(jnp.sum(jnp.exp(theta["penalties"][k]) * y[k] ** 2) for k in y)
    return jnp.mean(jax.nn.sigmoid(theta["example_weights"]) * errors) + penalty / 2


def _start(theta: Any) -> Any:
    first, second = theta["layer_scales"]
    start = theta["start"]
    return {"w": first * start["w"], "b": start["b"], "v": second * start["v"]}


def _error(y: Any) -> jax.Array:
    return jnp.mean((_predict(y, HELD_OUT[0]) - HELD_OUT[1]) ** 2)


def by_rule(theta: Any, rule: Any) -> jax.Array:
    solver = tk.solver.GradientDescent(
        lambda theta, t: theta["step_sizes"][t], STEPS, lambda theta, t: theta["momenta"][t]
    )
    return _error(tk.argmin(inner, solver, adjoint=rule)(_start(theta), theta).value)


def by_hand(theta: Any) -> jax.Array:
    y = _start(theta)
    velocity = jax.tree.map(jnp.zeros_like, y)
    for t in range(STEPS):
        gradient = jax.grad(inner)(y, theta)
        momentum, step_size = theta["momenta"][t], theta["step_sizes"][t]
        velocity = jax.tree.map(lambda v, g, m=momentum: m * v - g, velocity, gradient)
        y = jax.tree.map(lambda a, v, s=step_size: a + s * v, y, velocity)
    return _error(y)


@pytest.fixture(scope="module")
def expected() -> Any:
    return jax.jit(jax.grad(by_hand))(THETA)


@pytest.mark.parametrize(
    ("rule", "rtol"),
    [
        (Unroll(), 1e-10),
        (Unroll("sqrt"), 1e-10),
        (Truncated(STEPS), 1e-10),
        (Forward(), 1e-10),
        (Reversible(mean_momentum=0.5), 1e-6),  # its state is on a grid of 2^-40
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, float) else "",
)
def test_every_family_under_every_rule_that_follows_the_steps(
    rule: Any, rtol: float, expected: Any
) -> None:
    got = jax.jit(jax.grad(lambda theta: by_rule(theta, rule)))(THETA)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True
    ):
        assert np.linalg.norm(other) > 1e-6, path  # each family has a derivative to get right
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * np.max(np.abs(other)))
