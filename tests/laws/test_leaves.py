"""Trees of every kind pass through a solve: odd leaves are carried, complex ones follow JAX."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import toolkit as tk
from toolkit.adjoint import Forward, Implicit, Nudged, OneStep, Stopped, Truncated, Unroll
from toolkit.linear import CG

CONVERGED_RULES = [
    Implicit(),
    Implicit(CG(50, 1e-13)),
    Unroll(),
    Unroll("sqrt"),
    Unroll(forward_mode=True),
    Forward(),
    Truncated(250),
    Nudged(0.5),  # energies quadratic in y: exact at any beta
]
every_rule = pytest.mark.parametrize("adjoint", [*CONVERGED_RULES, OneStep(), Stopped()], ids=str)
rules = pytest.mark.parametrize("adjoint", CONVERGED_RULES, ids=str)
DESCENT = tk.solver.GradientDescent(0.2, 300, momentum=0.1)


class Odd(NamedTuple):
    w: Any
    count: Any
    flag: Any
    key: Any
    missing: Any
    name: Any


def _odd(w: Any) -> Odd:
    return Odd(w, jnp.asarray(3), jnp.asarray(True), jax.random.key(7), None, "a static leaf")


def _odd_fun(y: Odd, theta: Odd) -> jax.Array:
    assert y.name == theta.name == "a static leaf"
    assert y.missing is None
    target = theta.w * theta.count + jnp.where(y.flag, 1.0, 100.0)
    noise = jax.random.normal(theta.key, theta.w.shape)
    return 0.5 * jnp.sum((y.w - target - noise) ** 2 * y.count)


@every_rule
def test_odd_leaves_are_carried_on_both_sides(adjoint: Any) -> None:
    solve = tk.argmin(_odd_fun, DESCENT, adjoint=adjoint)
    y0, theta = _odd(jnp.zeros(2)), _odd(jnp.asarray([1.0, -2.0]))
    solution = solve(y0, theta)
    noise = jax.random.normal(theta.key, (2,))
    np.testing.assert_allclose(solution.value.w, 3 * theta.w + 1 + noise, rtol=1e-12)
    assert solution.value.count == 3
    assert solution.value.name == "a static leaf"
    assert solution.value.key == y0.key
    hg = tk.hypergradient(lambda y, t: jnp.sum(y.w**2), solve)(y0, theta)
    expected = {Stopped: 0.0, OneStep: 0.2 * 3}.get(type(adjoint), 1.0)  # the step moves 0.2 H
    np.testing.assert_allclose(
        hg.gradient.w, expected * 6 * solution.value.w, rtol=1e-10, atol=1e-300
    )
    assert hg.gradient == Odd(hg.gradient.w, None, None, None, None, None)


def test_gradient_with_none_leaves_feeds_optax() -> None:
    solve = tk.argmin(_odd_fun, DESCENT)
    theta = _odd(jnp.asarray([1.0, -2.0]))
    hg = tk.hypergradient(lambda y, t: jnp.sum(y.w**2), solve)(_odd(jnp.zeros(2)), theta)
    optimizer = optax.adam(0.1)
    floats = theta._replace(count=None, flag=None, key=None, name=None)
    updates, _ = optimizer.update(hg.gradient, optimizer.init(floats), floats)
    assert jnp.all(optax.apply_updates(floats, updates).w != theta.w)


@rules
def test_batched_odd_leaves(adjoint: Any) -> None:
    """Integers and keys that differ over a vmapped axis, also where they are closed over."""
    counts, keys = jnp.arange(1, 4), jax.random.split(jax.random.key(0), 3)

    def value(w: jax.Array, count: jax.Array, key: jax.Array) -> jax.Array:
        def fun(y: jax.Array, theta: jax.Array) -> jax.Array:
            noise = jax.random.normal(key, ())
            return 0.5 * (y - theta * count - noise) ** 2

        return tk.argmin(fun, DESCENT, adjoint=adjoint)(jnp.zeros(()), w).value ** 2

    got = jax.vmap(jax.grad(value), (None, 0, 0))(jnp.asarray(0.5), counts, keys)
    noise = jax.vmap(lambda k: jax.random.normal(k, ()))(keys)
    np.testing.assert_allclose(got, 2 * (0.5 * counts + noise) * counts, rtol=1e-10)


# Complex: f(z, c) = |A z - c|^2 + exp(Re p) |z|^2, A complex. In real coordinates an ordinary
# ridge regression, which the expected numbers are computed from.
_random = np.random.default_rng(1)
A = _random.normal(size=(4, 2)) + 1j * _random.normal(size=(4, 2))
C = jnp.asarray(_random.normal(size=4) + 1j * _random.normal(size=4))


def _complex_fun(z: jax.Array, theta: dict) -> jax.Array:
    misfit = jnp.sum(jnp.abs(A @ z - theta["c"]) ** 2)
    return misfit + jnp.exp(theta["p"].real) * jnp.sum(jnp.abs(z) ** 2)


def _complex_exact(theta: dict) -> jax.Array:
    gram = A.conj().T @ A + jnp.exp(theta["p"].real) * jnp.eye(2)
    return jnp.linalg.solve(gram, A.conj().T @ theta["c"])


@rules
def test_complex_leaves_follow_the_convention_of_jax(adjoint: Any) -> None:
    theta = {"c": C, "p": jnp.asarray(0.2 + 0.5j)}
    solver = tk.solver.GradientDescent(0.02, 400, momentum=0.6)
    solve = tk.argmin(_complex_fun, solver, adjoint=adjoint)
    z0 = jnp.zeros(2, complex)
    weight = jnp.asarray([1.0 - 2.0j, 0.3 + 1.0j])
    readout = lambda z: jnp.real(jnp.sum(weight * z)) ** 2 + jnp.sum(jnp.abs(z) ** 2)
    np.testing.assert_allclose(solve(z0, theta).value, _complex_exact(theta), rtol=1e-9)
    got = jax.grad(lambda t: readout(solve(z0, t).value))(theta)
    expected = jax.grad(lambda t: readout(_complex_exact(t)))(theta)
    for name in theta:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-6)
    hg = tk.hypergradient(lambda z, t: readout(z), solve)(z0, theta)
    np.testing.assert_allclose(hg.gradient["c"], expected["c"], rtol=1e-6)


@pytest.mark.parametrize("make", [tk.root, tk.fixed_point])
def test_complex_root_and_map(make: Any) -> None:
    M = jnp.asarray([[0.2 + 0.1j, -0.3j], [0.1, 0.25j]])
    fun = {
        tk.root: lambda z, c: z - M @ jnp.conj(z) - c,  # not holomorphic: only real-linear
        tk.fixed_point: lambda z, c: M @ jnp.conj(z) + c,
    }[make]
    solve = make(fun, tk.solver.Newton(10, 1e-13))

    def exact(c: jax.Array) -> jax.Array:
        return jnp.linalg.solve(jnp.eye(2) - M @ M.conj(), c + M @ c.conj())

    c, readout = C[:2], lambda z: jnp.sum(jnp.abs(z - (1 + 2j)) ** 2)
    z0 = jnp.zeros(2, complex)
    np.testing.assert_allclose(solve(z0, c).value, exact(c), rtol=1e-12)
    got = jax.grad(lambda c: readout(solve(z0, c).value))(c)
    np.testing.assert_allclose(got, jax.grad(lambda c: readout(exact(c)))(c), rtol=1e-9)
    hg = tk.hypergradient(lambda z, _: readout(z), solve)(z0, c)
    np.testing.assert_allclose(hg.gradient, got, rtol=1e-9)


class Linen(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = jnp.tanh(flax.linen.Dense(4, param_dtype=jnp.float64)(x))
        return flax.linen.Dense(1, param_dtype=jnp.float64)(hidden)[:, 0]


class Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(2, 4, rngs=rngs, param_dtype=jnp.float64)
        self.out = nnx.Linear(4, 1, rngs=rngs, param_dtype=jnp.float64)
        self.dropout = nnx.Dropout(0.5, rngs=rngs, deterministic=True)  # holds a key and a count

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(self.dropout(jnp.tanh(self.hidden(x))))[:, 0]


POINTS = jnp.asarray(np.random.default_rng(2).normal(size=(16, 2)))
LABELS = jnp.sin(POINTS[:, 0]) + 0.1 * POINTS[:, 1]


def _model(kind: str) -> tuple:
    if kind == "linen":
        module = Linen()
        return module.apply, module.init(jax.random.key(0), POINTS)
    graph, state = nnx.split(Nnx(nnx.Rngs(0)))
    return (lambda state, x: nnx.merge(graph, state)(x)), state


@pytest.mark.parametrize("kind", ["nnx", "linen"])
@pytest.mark.parametrize("adjoint", [Implicit(), Unroll()], ids=str)
def test_flax_models_as_inner_variable(kind: str, adjoint: Any) -> None:
    apply, y0 = _model(kind)

    def fun(y: Any, theta: jax.Array) -> jax.Array:
        squares = sum(
            jnp.sum(leaf**2)
            for leaf in jax.tree.leaves(y)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
        )
        return jnp.mean((apply(y, POINTS) - LABELS) ** 2) + 0.5 * jnp.exp(theta) * squares

    # An optax optimizer inside; outside, a step of another on the hyperparameter.
    solver = tk.solver.Optax(optax.sgd(0.2, momentum=0.8), 2000)
    solve = tk.argmin(fun, solver, adjoint=adjoint)
    outer = lambda y, theta: jnp.mean((apply(y, POINTS[:8]) - LABELS[:8] + 0.2) ** 2)
    theta = jnp.asarray(-1.5)
    solution = solve(y0, theta)
    assert jax.tree.structure(solution.value) == jax.tree.structure(y0)
    assert solution.info.status == tk.Status.CONVERGED
    tk.check_hypergradient(outer, solve, y0, theta, rtol=1e-5)
    optimizer = optax.adam(0.1)
    gradient = tk.hypergradient(outer, solve)(y0, theta).gradient
    updates, _ = optimizer.update(gradient, optimizer.init(theta), theta)
    better = optax.apply_updates(theta, updates)
    assert outer(solve(y0, better).value, better) < outer(solution.value, theta)
