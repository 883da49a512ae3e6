"""Functions with one mode only: the derivative that their mode admits, or a refusal that names the rule.

A function of a solve may itself be a solve, or a loop, whose rule has reverse mode alone. What pushes
tangents through it (Newton's matrix, `tk.control.forward()`, `jax.jacfwd`) is refused by name wherever
it stands: also where the tangents are batched, or belong to a program that was traced before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.adjoint import Forward, Nudged, Reversible, Truncated, Unroll
from toolkit.solver import LBFGS, GradientDescent, Newton

THETA = jnp.array([1.0, -0.5])
ZEROS = jnp.zeros(2)


def _distance(y: Any, theta: Any) -> Any:
    return 0.5 * jnp.sum((y - theta) ** 2)


def _solved(rule: Any) -> Callable:
    """The identity, as a solve under `rule`."""
    return lambda t: tk.argmin(_distance, GradientDescent(0.5, 40), adjoint=rule)(ZEROS, t).value


@jax.custom_vjp
def clipped(x: Any) -> Any:
    return x


# A backward pass that is not linear, and so cannot be transposed.
clipped.defvjp(lambda x: (x, None), lambda _, bar: (jnp.clip(bar, -9, 9),))


def _looped(policy: Any) -> Callable:
    """`0.99^100 t`, by a bounded loop."""

    def run(t: Any) -> Any:
        body = lambda c: (0.99 * clipped(c[0]), c[1] + 1)
        return tk.while_loop(lambda c: c[1] < 100, body, (t, 0), 200, gradient=policy)[0]

    return run


REVERSE_ONLY = {
    "Unroll": _solved(Unroll()),
    "Truncated": _solved(Truncated(60)),
    "Reversible": _solved(Reversible()),
    "Nudged": _solved(Nudged(0.01)),
    "store": _looped(tk.control.store()),
    "checkpoint": _looped(tk.control.checkpoint("sqrt")),
}


def _root(f: Callable, linear_solver: Any = None) -> Any:
    solver = Newton(5, 1e-8, linear_solver)
    return tk.root(lambda y, t: y - 0.1 * f(y) - t, solver)(ZEROS, THETA)


PUSHES = {
    "jvp": lambda f: jax.jvp(f, (THETA,), (THETA,)),
    "jacfwd_of_jit": lambda f: jax.jacfwd(jax.jit(f))(THETA),
    "jit_of_jacfwd": lambda f: jax.jit(jax.jacfwd(f)).trace(THETA).lower(),
    "jvp_of_vmap": lambda f: jax.jvp(jax.vmap(f), (THETA[None],), (THETA[None],)),
    "jacfwd_of_scan": lambda f: jax.jacfwd(
        lambda t: jax.lax.scan(lambda c, _: (c + f(t), None), ZEROS, length=2)[0]
    )(THETA),
    "loop_forward": lambda f: jax.grad(
        lambda t: tk.loop(
            lambda c, _: (c - 0.1 * f(c), None), t, length=2, gradient=tk.control.forward()
        )[0].sum()
    )(THETA),
    "adjoint_forward": lambda f: jax.grad(
        lambda t: tk.argmin(
            lambda y, t: jnp.sum((y - f(t)) ** 2), GradientDescent(0.4, 9), adjoint=Forward()
        )(ZEROS, t).value.sum()
    )(THETA),
}  # fmt: skip
# Where a backward pass can be transposed there is a product after all; that of these can not.
PRODUCTS = {
    "argmin": lambda f: jax.jacfwd(
        lambda t: tk.argmin(lambda y, t: jnp.sum((y - f(t)) ** 2), LBFGS(9, 1e-8))(ZEROS, t).value
    )(THETA),
    "root_dense": _root,
    "root_cg": lambda f: _root(f, tk.linear.CG(10, 1e-9)),
}  # fmt: skip
NOT_TRANSPOSED = ("Nudged", "store", "checkpoint")


@pytest.mark.parametrize(
    ("name", "push"),
    [(name, push) for name in REVERSE_ONLY for push in PUSHES]
    + [(name, push) for name in NOT_TRANSPOSED for push in PRODUCTS],
)
def test_forward_mode_is_refused_by_name(name: str, push: str) -> None:
    with pytest.raises(TypeError, match=rf"{name}\(.*has no forward mode .*[:;] (use|give) "):
        (PUSHES | PRODUCTS)[push](REVERSE_ONLY[name])


@pytest.mark.parametrize("name", REVERSE_ONLY)
def test_reverse_mode_passes_the_refusal_of_forward_mode(name: str) -> None:
    f = REVERSE_ONLY[name]
    factor = 1 if name in ("Unroll", "Truncated", "Reversible", "Nudged") else 0.99**100
    one = lambda t: jnp.sum(f(t))
    ways = {
        "vmap_of_grad": jax.vmap(jax.grad(one)),
        "grad_of_vmap_of_checkpoint": jax.grad(lambda t: jax.vmap(jax.checkpoint(one))(t).sum()),
        "grad_of_scan": jax.grad(
            lambda t: jax.lax.scan(lambda c, x: (c + one(x), None), 0.0, t)[0]
        ),
    }
    for way in ways.values():
        # Reversible's iterates lie on a grid, 1e-5.
        np.testing.assert_allclose(jax.jit(way)(THETA[None]), factor, rtol=1e-5)
