"""The programs of people who move here from jaxopt or optimistix, written with ours and with theirs.

Both sides get the same problem, start, tolerance and limit on the steps, and else their own defaults: what
they cost a user who changes nothing but the library. `value` is the solution, `gradient` the derivative of a
loss of it in what the problem depends on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import toolkit as tk

Solve = Callable[[Any], Any]  # what the problem depends on -> its solution
Loss = Callable[[Any], Any]
TOL = 1e-4  # absolute, on each peer's own residual; float32 gives little more


class Side(NamedTuple):
    """A problem, solved by one library."""

    solve: Solve
    theta: Any


def _uniform(key: int, *shape: int) -> Any:
    return np.random.default_rng(key).uniform(-1, 1, shape).astype(np.float32)


def _normal(key: int, *shape: int) -> Any:
    return np.random.default_rng(key).normal(size=shape).astype(np.float32)


# A deep equilibrium model: a batch of 64 fixed points of 128 units each, contracting by about 0.6 a step.


def _layer(z: Any, theta: Any) -> Any:
    weights, bias = theta
    return jnp.tanh(z @ weights + bias)


def _deq_data() -> tuple[Any, Any, Any]:
    weights = 0.3 * _normal(0, 128, 128) / 128**0.5
    return np.zeros((64, 128), np.float32), weights.astype(np.float32), _normal(1, 64, 128)


def deq(peer: str, accelerated: bool = False) -> Side:
    """By iteration of the layer, or with Anderson acceleration of the last five values."""
    start, *theta = _deq_data()
    theta = tuple(theta)
    if peer == "jaxopt":
        import jaxopt

        if accelerated:
            solver = jaxopt.AndersonAcceleration(_layer, history_size=5, maxiter=200, tol=TOL)
        else:
            solver = jaxopt.FixedPointIteration(_layer, maxiter=200, tol=TOL)
        return Side(lambda theta: solver.run(start, theta).params, theta)
    if peer == "optimistix":
        import optimistix

        solver = optimistix.FixedPointIteration(rtol=0.0, atol=TOL)
        return Side(
            lambda theta: (
                optimistix.fixed_point(
                    _layer, solver, start, theta, max_steps=200, throw=False
                ).value
            ),
            theta,
        )
    solver = (
        tk.solver.Anderson(200, TOL, 5) if accelerated else tk.solver.FixedPointIteration(200, TOL)
    )
    solve = tk.fixed_point(_layer, solver)
    return Side(lambda theta: solve(start, theta).value, theta)
