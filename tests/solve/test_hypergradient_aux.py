"""`tk.hypergradient(..., has_aux=True)`: the same numbers, and what the outer function returns besides."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.adjoint import Forward, Implicit, Unroll

Y0, THETA = np.zeros(2), np.asarray([0.5, -1.0])
RULES = [Implicit(), Unroll(), Forward()]
rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)


def solve_by(rule: Any) -> tk.SolutionMap:
    fun = lambda y, theta: jnp.sum((y - theta) ** 2) + 0.1 * jnp.sum(y**4)
    return tk.argmin(fun, tk.solver.GradientDescent(0.2, 60), adjoint=rule)


def outer(y: Any, theta: Any) -> jax.Array:
    return jnp.sum(y**2 * theta) + jnp.sum(theta**3)


def with_aux(y: Any, theta: Any) -> Any:
    return outer(y, theta), {"predicted": y + theta, "count": 3, "name": "val", "none": None}


@rules
def test_the_numbers_are_the_same_and_the_aux_is_beside_them(rule: Any) -> None:
    solve = solve_by(rule)
    plain = jax.jit(tk.hypergradient(outer, solve))(Y0, THETA)

    def run(theta: Any) -> Any:
        hg = tk.hypergradient(with_aux, solve, has_aux=True)(Y0, theta)
        assert hg.aux["name"] == "val" and hg.aux["none"] is None
        return hg._replace(aux={name: hg.aux[name] for name in ("predicted", "count")})

    got = jax.jit(run)(THETA)
    for one, other in zip(*map(jax.tree.leaves, (got._replace(aux=None), plain)), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(got.aux["predicted"], plain.solution.value + THETA, rtol=1e-14)
    assert int(got.aux["count"]) == 3 and plain.aux is None
    eager = tk.hypergradient(with_aux, solve, has_aux=True)(Y0, THETA)
    np.testing.assert_allclose(eager.gradient, plain.gradient, rtol=1e-12)


@rules
def test_the_aux_is_differentiated(rule: Any) -> None:
    solve = solve_by(rule)
    run = tk.hypergradient(with_aux, solve, has_aux=True)
    of_aux = lambda theta: jnp.sum(run(Y0, theta).aux["predicted"])
    expected = jax.grad(lambda theta: jnp.sum(solve(Y0, theta).value + theta))(THETA)
    np.testing.assert_allclose(
        jax.jacfwd(of_aux)(THETA) if rule is RULES[0] else jax.grad(of_aux)(THETA),
        expected,
        rtol=1e-9,
    )


def test_vmap_and_what_is_no_pair() -> None:
    run = tk.hypergradient(
        lambda y, theta: (outer(y, theta), y), solve_by(Implicit()), has_aux=True
    )
    many = jax.vmap(lambda theta: run(Y0, theta))(np.stack([THETA, -THETA]))
    np.testing.assert_array_equal(many.aux, many.solution.value)
    with pytest.raises(
        ValueError, match=r"`outer` must return a pair \(value, aux\) with has_aux=True"
    ):
        tk.hypergradient(outer, solve_by(Unroll()), has_aux=True)(Y0, THETA)
    with pytest.raises(ValueError, match="`outer` must return a real scalar"):
        tk.hypergradient(with_aux, solve_by(Implicit()))(Y0, THETA)
