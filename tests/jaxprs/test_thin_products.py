"""Products with a thin matrix are rearranged where it pays, and nothing else is touched."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.jaxprs.platform import tracing_for
from toolkit.jaxprs.thin_products import arranged

ROWS, FEATURES, FEW = 64, 24, 3


def barriers(fun, w, *others):
    """How many products of `fun(w, *others)` are rearranged."""
    closed = jax.make_jaxpr(fun)(w, *others)
    new = arranged(closed, [True] + [False] * len(others))
    assert (str(new) == str(closed)) == (new is closed)
    return str(new).count("optimization_barrier")


def normal(*shape, seed=0, dtype=float):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


X, W = normal(ROWS, FEATURES), normal(FEATURES, FEW, seed=1)
THIN = {
    "plain": lambda w: X @ w,
    "in a jit": lambda w: jax.jit(lambda w: jnp.tanh(X @ w))(w),
    "after other operations": lambda w: X @ jnp.exp(2 * w),
    "of examples in two axes": lambda w: X.reshape(8, 8, FEATURES) @ w,
    "mapped over examples": lambda w: jax.vmap(lambda x: x @ w)(X),
}
OTHER = {
    "few examples": lambda w: X[:29] @ w,
    "another matrix is thin": lambda w: (X @ jnp.ones((FEATURES, FEW))) * jnp.sum(w),
    "w from the left": lambda w: w.T @ X.T,
    "w transposed": lambda w: X[:, :FEW] @ w.T,
    "a vector": lambda w: X @ w[:, 0],
    "a batch of products": lambda w: jnp.einsum("bij,bjk->bik", X[None], w[None]),
    "elementwise": lambda w: w * 2,
    "in a loop": lambda w: jax.lax.fori_loop(0, 2, lambda i, s: s + X @ w, jnp.zeros((ROWS, FEW))),
}


@pytest.mark.parametrize("name", THIN)
def test_thin_products_are_rearranged(name):
    assert barriers(THIN[name], W) == 1


@pytest.mark.parametrize("name", OTHER)
def test_others_are_left_alone(name):
    assert barriers(OTHER[name], W) == 0


@pytest.mark.parametrize("columns, expected", [(1, 0), (2, 1), (12, 1), (13, 0), (24, 0)])
def test_thin_means_at_most_half_as_many_columns_but_two(columns, expected):
    x = normal(1000, FEATURES)
    assert barriers(lambda w: x @ w, normal(FEATURES, columns)) == expected


def test_not_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert barriers(lambda w: X @ w, W) == 0


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.complex128, jnp.bfloat16])
def test_values_and_every_derivative_are_the_same(dtype):
    x, w, v = (leaf.astype(dtype) for leaf in (X, W, normal(FEATURES, FEW, seed=2)))

    def plain(w):
        return jnp.sum(jnp.abs(jnp.tanh(x @ w)) ** 2).astype(jnp.finfo(dtype).dtype)

    closed = jax.make_jaxpr(plain)(w)
    new = arranged(closed, [True])
    assert new is not closed
    swift = lambda w: jax.core.eval_jaxpr(new.jaxpr, new.consts, w)[0]

    def all_of(f):
        gradient = jax.grad(f)
        third = jax.grad(
            lambda w: jnp.sum(jnp.abs(jax.jvp(gradient, (w,), (v,))[1]) ** 2).astype(plain(w).dtype)
        )
        return f(w), gradient(w), jax.jvp(gradient, (w,), (v,))[1], third(w)

    rtol = 1e-12 if dtype != jnp.bfloat16 else 0.1
    for one, other in zip(all_of(plain), all_of(swift), strict=True):
        scale = float(jnp.max(jnp.abs(one)))
        np.testing.assert_allclose(one.astype(complex), other.astype(complex), atol=rtol * scale)


def solve(fun):
    return tk.argmin(
        fun, tk.solver.GradientDescent(0.1, 20, momentum=0.9), adjoint=tk.adjoint.Unroll()
    )


def loss(w, theta):
    return jnp.mean((X @ w - theta) ** 2) + 0.05 * jnp.sum(w**2)


def test_the_gradient_of_a_solve_is_a_product_with_few_rows():
    """The compiled step multiplies `[FEW, ROWS]` with `[ROWS, FEATURES]`, and nothing the other way round."""
    hypergradient = jax.grad(lambda theta: jnp.sum(solve(loss)(W, theta).value ** 2))
    text = jax.jit(hypergradient).lower(jnp.ones(FEW)).compile().as_text()
    shapes = {line.split(" = ")[1].split("{")[0] for line in text.splitlines() if " dot(" in line}
    assert f"f64[{FEW},{FEATURES}]" in shapes and f"f64[{FEATURES},{FEW}]" not in shapes


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap])
def test_a_solve_agrees_with_a_scan_by_hand(transform):
    def by_hand(theta):
        def step(carry, _):
            w, v = carry
            v = 0.9 * v - jax.grad(loss)(w, theta)
            return (w + 0.1 * v, v), None

        return jnp.sum(jax.lax.scan(step, (W, jnp.zeros_like(W)), None, 20)[0][0] ** 2)

    ours = lambda theta: jnp.sum(solve(loss)(W, theta).value ** 2)
    theta = normal(4, FEW, seed=3) if transform is jax.vmap else normal(FEW, seed=3)
    np.testing.assert_allclose(
        transform(jax.grad(ours))(theta), transform(jax.grad(by_hand))(theta), rtol=1e-10
    )


def test_on_a_cpu_an_accelerators_program_is_its_own():
    """Where a program is traced for a TPU it is that of a TPU, also if it was traced for this machine before."""
    inner = jax.jit(lambda w, theta: jnp.mean((X @ w) ** 2) + theta * jnp.mean((w - 1) ** 2))
    solve = tk.argmin(inner, tk.solver.GradientDescent(0.1, 3))
    step = jax.jit(jax.grad(lambda theta: jnp.sum(solve(jnp.zeros((FEATURES, FEW)), theta).value)))

    def lowered(platform):
        text = step.trace(1.0).lower(lowering_platforms=(platform,)).as_text()
        return text.count("optimization_barrier"), text.count("stablehlo.transpose")

    here = lowered("cpu")
    with tracing_for("tpu"):
        there = lowered("tpu")
    assert there[0] == 0 < here[0]
    assert there[1] < here[1]
    assert lowered("cpu") == here
