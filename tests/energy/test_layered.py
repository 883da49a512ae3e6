"""The layered Hopfield energy: its equilibrium, its examples, its continuation."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.energy import layered

SIZES = (5, 7, 4, 3)
THETA = tuple(
    layer._replace(bias=0.3 * jnp.cos(jnp.arange(layer.bias.size, dtype=float)))
    for layer in layered.init(jax.random.key(0), SIZES, scale=0.5)
)
X = jax.random.normal(jax.random.key(1), (6, SIZES[0]))
SOLVER = tk.solver.GradientDescent(0.5, 400, momentum=0.3, tol=1e-12)
every_unit = pytest.mark.parametrize("units", [layered.tanh, layered.sigmoid])


def settled(units: Any, x: jax.Array) -> tk.Solution:
    solve = tk.argmin(lambda y, t: layered.energy(y, t, x, units), SOLVER)
    return jax.jit(solve)(layered.rest(THETA, x), THETA)


@every_unit
def test_at_rest_each_layer_is_what_its_neighbours_send(units: Any) -> None:
    solution = settled(units, X)
    assert solution.info.status == tk.Status.CONVERGED
    rates = [X, *map(units, solution.value)]
    above = [rates[k + 1] @ THETA[k].weights.T for k in range(1, len(THETA))] + [0.0]
    for u, layer, (below, _), down in zip(
        solution.value, THETA, pairwise(rates), above, strict=True
    ):
        slope = jax.vmap(jax.vmap(jax.grad(units)))(u)
        np.testing.assert_allclose(
            u, slope * (below @ layer.weights + layer.bias + down), atol=1e-11
        )


@every_unit
def test_examples_settle_as_they_would_alone(units: Any) -> None:
    together, alone = settled(units, X).value, settled(units, X[2:3]).value
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a[2:3], b, atol=1e-10)


def test_the_sigmoid_is_the_smooth_hard_sigmoid() -> None:
    u = jnp.linspace(-2, 3, 11)
    np.testing.assert_allclose(layered.sigmoid(u), 1 / (1 + jnp.exp(2 - 4 * u)), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(layered.sigmoid)(0.5), 1, rtol=1e-12)


@every_unit
@pytest.mark.parametrize(("scheme", "beta"), [("centered", 1e-3), ("holomorphic", 0.05)])
def test_nudges_agree_with_the_implicit_rule(units: Any, scheme: Any, beta: float) -> None:
    def gradient(rule: Any) -> Any:
        solve = tk.argmin(lambda y, t: layered.energy(y, t, X, units), SOLVER, adjoint=rule)
        loss = lambda t: jnp.sum((solve(layered.rest(t, X), t).value[-1] - 0.3) ** 2)
        return jax.jit(jax.grad(loss))(THETA)

    exact = gradient(tk.adjoint.Implicit())
    got = gradient(tk.adjoint.Nudged(beta, scheme))
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(exact))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), got, exact)


def test_sizes() -> None:
    shapes = [(layer.weights.shape, layer.bias.shape) for layer in THETA]
    assert shapes == [((5, 7), (7,)), ((7, 4), (4,)), ((4, 3), (3,))]
    with pytest.raises(ValueError, match="`sizes` must name an input and a layer"):
        layered.init(jax.random.key(0), (5,))
