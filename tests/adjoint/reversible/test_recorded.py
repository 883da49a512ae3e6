"""A gradient, and its derivative from what it leaves behind."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import toolkit as tk
from toolkit.adjoint.reversible import recorded
from toolkit.adjoint.reversible.recorded import ObjectiveArguments, record
from toolkit.types import InnerProblem

DATA = jax.random.normal(jax.random.key(0), (30, 40))
Y = {"w": jax.random.normal(jax.random.key(1), (40, 20)), "b": jnp.zeros(20)}


def objective(y: dict, theta: jax.Array, x: Any) -> jax.Array:
    hidden = jnp.tanh(DATA @ y["w"] + y["b"])
    return jnp.sum(hidden**2 * x) + jnp.exp(theta) * jnp.sum(y["w"] ** 2)


PROBLEM = InnerProblem(
    "argmin", jax.grad(objective), objective, *[lambda y, t: y] * 2, tk.linear.CG(1, 1)
)
AT = ObjectiveArguments(Y, jnp.asarray(0.3), jnp.asarray(2.0))


def _record(wanted: Any = (True, True)) -> recorded.Recorded:
    return record(PROBLEM, AT, wanted, jnp.asarray(0, jnp.int32))


def test_the_derivative_is_that_of_the_gradient() -> None:
    u = [jax.random.normal(jax.random.key(2), leaf.shape) for leaf in jax.tree.leaves(Y)]

    def ours(u: list) -> tuple:
        noted = _record()
        return noted.gradient, noted.pull_back(u), noted.intact

    gradient, (y_bar, theta_bar, x_bar), intact = jax.jit(ours)(u)
    expected, pull = jax.vjp(jax.grad(objective), *AT)
    assert intact
    jax.tree.map(np.testing.assert_allclose, gradient, jax.tree.leaves(expected))
    bars = pull(jax.tree.unflatten(jax.tree.structure(Y), u))
    # Products of 30 x 40 entries, summed in another order.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
        [*y_bar, theta_bar, x_bar],
        jax.tree.leaves(bars),
    )


def test_only_what_is_costly_is_kept() -> None:
    """Not the data, nor twice the weights, nor the penalty spread over them."""
    traced = jax.make_jaxpr(lambda: _record().gradient)()
    condition = next(e for e in traced.jaxpr.eqns if e.primitive.name == "cond")
    kept = [out.aval.shape for out in condition.outvars[2:]]
    # tanh and the gradient that reaches it; no more than one array may stand for its derivative.
    assert sum(shape == (30, 20) for shape in kept) <= 3
    assert (40, 20) not in kept and (30, 40) not in kept


def test_without_derivative_nothing_is_kept() -> None:
    traced = jax.make_jaxpr(lambda: _record(None).gradient)()
    condition = next(e for e in traced.jaxpr.eqns if e.primitive.name == "cond")
    assert len(condition.outvars) == 2
