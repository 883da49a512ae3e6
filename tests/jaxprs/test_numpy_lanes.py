"""`jax.vmap` over NumPy arrays inside `jax.jit`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk

DATA = np.random.default_rng(0).normal(size=(3, 4, 2))
STARTS = np.zeros((3, 2))


def _loss(y: Any, theta: Any, data: Any) -> Any:
    return jnp.sum(jnp.log1p((data @ y - 1) ** 2)) + theta * jnp.sum(y**2)


@pytest.mark.parametrize("closed_over", [False, True])
@pytest.mark.parametrize("adjoint", [tk.adjoint.Implicit(), tk.adjoint.Unroll()], ids=str)
def test_lanes_of_numpy_arrays_are_solved_as_those_of_jax(adjoint: Any, closed_over: bool) -> None:
    solver = tk.solver.GradientDescent(0.05, 50)

    def solution(theta: Any, data: Any, y0: Any) -> Any:
        if closed_over:
            fun: Any = lambda y, theta: _loss(y, theta, data)
            return jnp.sum(tk.argmin(fun, solver, adjoint=adjoint)(y0, theta).value)
        fun = lambda y, pair: _loss(y, *pair)
        return jnp.sum(tk.argmin(fun, solver, adjoint=adjoint)(y0, (theta, data)).value)

    lanes = jax.vmap(jax.value_and_grad(solution), (None, 0, 0))
    found = jax.jit(lambda theta: lanes(theta, DATA, STARTS))(0.5)
    expected = jax.jit(lanes)(0.5, jnp.asarray(DATA), jnp.asarray(STARTS))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
