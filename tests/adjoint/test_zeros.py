"""A derivative that is zero by theory is said once, with the rule to use instead."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import toolkit as tk
from toolkit.adjoint import Implicit, Unroll, ZeroDerivativeWarning
from toolkit.solver import GradientDescent, Optax, ProximalGradient

THETA = {"target": jnp.ones(3), "rate": jnp.asarray(0.1)}


def inner(y: Any, theta: Any) -> Any:
    return jnp.sum((y - theta["target"]) ** 2)


def outer(y: Any, theta: Any) -> Any:
    return jnp.sum(y**2)


def _error(solver: Any, theta: Any, y0: Any = None, rule: Any = None) -> Any:
    y0 = jnp.zeros(3) if y0 is None else y0
    return outer(tk.argmin(inner, solver, adjoint=rule or Implicit())(y0, theta).value, theta)


def by_theta(theta: Any, rule: Any = None) -> Any:
    return _error(GradientDescent(lambda t, step: t["rate"], 30), theta, rule=rule)


ASKED = {
    "schedule": (by_theta, THETA, r"theta\['rate'\]"),
    "closure": (
        lambda rate: _error(GradientDescent(rate, 30), THETA),
        0.1,
        "an array that the solver's settings close over",
    ),
    "optax": (
        lambda rate: _error(Optax(optax.sgd(rate), 30), THETA),
        0.1,
        "an array that the solver's settings close over",
    ),
    "start": (lambda y0: _error(GradientDescent(0.1, 30), THETA, y0), jnp.zeros(3), "y0"),
    "proximal": (
        lambda rate: _error(
            ProximalGradient(lambda y, t, s: tk.prox.lasso(y, 0.1, s), rate, 30, 0.0), THETA
        ),
        0.1,
        "an array that the solver's settings close over",
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_the_zero_is_said_with_its_remedy(name: str) -> None:
    function, at, what = ASKED[name]
    message = f"with respect to {what} is zero under Implicit.*use the adjoint Unroll"
    with pytest.warns(ZeroDerivativeWarning, match=message):
        got = jax.jit(jax.grad(function))(at)
    assert jnp.all((got["rate"] if name == "schedule" else got) == 0)


def test_the_hypergradient_says_it_too_and_once() -> None:
    solve = tk.argmin(inner, GradientDescent(lambda t, step: t["rate"], 30))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(2):
            tk.hypergradient(outer, solve)(jnp.zeros(3), THETA)
    assert len([w for w in said if w.category is ZeroDerivativeWarning]) == 1


def test_nothing_is_said_where_nothing_is_zero() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ZeroDerivativeWarning)
        assert jax.jit(jax.grad(lambda t: by_theta(t, Unroll())))(THETA)["rate"] != 0
        # A penalty inside the proximal map is no setting, though the steps close over it, too.
        by_penalty = lambda l1: _error(
            ProximalGradient(lambda y, t, s: tk.prox.lasso(y, l1, s), 0.1, 30, 0.0), THETA
        )
        assert jax.jit(jax.grad(by_penalty))(0.1) != 0
        constant_rate = lambda target: by_theta(THETA | {"target": target})
        assert jnp.all(jax.jit(jax.grad(constant_rate))(jnp.ones(3)) != 0)
