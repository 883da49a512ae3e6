"""Closed-over tracers become arguments; globals are read afresh; while loops are seen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.jaxprs.lift import lift, traced_once

X = jnp.asarray([1.0, 2.0])


def test_concrete_arrays_stay_constants() -> None:
    weights = jnp.asarray([3.0, 4.0])
    lifted = lift(lambda x: {"dot": x @ weights}, X)
    assert lifted.closed == ()
    assert lifted.call((), X)["dot"] == 11.0
    assert lifted.shape["dot"].shape == ()


def test_tracers_of_every_type_are_lifted() -> None:
    def outer(weights, index, key):
        noise = lambda: jax.random.normal(key)
        lifted = lift(lambda x: x[index] * weights[0] + noise(), X)
        assert len(lifted.closed) == 3
        other = tuple(
            leaf + 1 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf for leaf in lifted.closed
        )
        return lifted.call(lifted.closed, X), lifted.call(other, X)

    key = jax.random.key(1)
    same, moved = jax.jit(outer)(jnp.asarray([5.0]), 1, key)
    expected = 10.0 + jax.random.normal(key)
    np.testing.assert_allclose(same, expected, rtol=1e-15)
    np.testing.assert_allclose(moved, expected + 2.0, rtol=1e-15)


def test_tracers_behind_jit_checkpoint_and_control_flow() -> None:
    def outer(weight):
        inner = jax.jit(lambda x: jax.checkpoint(lambda x: jnp.sum(x * weight))(x))
        loop = lambda x: jax.lax.scan(lambda c, _: (c * weight, None), x, None, length=2)[0]
        lifted = lift(lambda x: inner(x) + jnp.sum(loop(x)), X)
        assert len(lifted.closed) >= 1
        # Without the lifting the derivative through `call` would be that of a constant: 0.
        return jax.grad(lambda closed: lifted.call(closed, X))(lifted.closed)

    bars = jax.jit(outer)(jnp.asarray(3.0))
    np.testing.assert_allclose(sum(bars), 3.0 + 2 * 3.0 * 3.0, rtol=1e-15)


def test_a_changed_global_is_seen() -> None:
    scope = {"a": jnp.asarray(1.0)}
    fun = lambda x: scope["a"] * x
    assert lift(fun, 2.0).call((), 2.0) == 2.0
    scope["a"] = jnp.asarray(10.0)
    assert lift(fun, 2.0).call((), 2.0) == 20.0  # jax.closure_convert answers 2.0 here


def test_traces_once_and_never_again() -> None:
    count = []
    lifted = lift(lambda x: count.append(1) or jnp.sin(x), X)
    for _ in range(3):
        lifted.call((), X)
    jax.jit(lambda x: lifted.call((), x))(X)
    assert len(count) == 1


def test_custom_derivatives_survive() -> None:
    @jax.custom_jvp
    def f(x):
        return x

    f.defjvp(lambda primals, tangents: (primals[0], 7.0 * tangents[0]))
    lifted = lift(f, 2.0)
    assert jax.grad(lambda x: lifted.call((), x))(2.0) == 7.0


def test_loops_on_data_are_seen_wherever_they_hide() -> None:
    def newton_like(x):
        return jax.lax.while_loop(lambda c: jnp.sum(c) > 1, lambda c: c / 2, x)

    assert lift(newton_like, X).loops_on_data
    assert lift(jax.jit(lambda x: jax.vmap(newton_like)(x[None])), X).loops_on_data
    hidden = lambda x: jax.lax.cond(x[0] > 0, newton_like, lambda c: c, x)
    assert lift(hidden, X).loops_on_data
    bounded = lambda x: jax.lax.fori_loop(0, 3, lambda _, c: c / 2, x)
    assert not lift(bounded, X).loops_on_data
    # A linear solve brings its own transpose.
    solve = lambda x: jax.lax.custom_linear_solve(
        lambda v: 2 * v, x, lambda matvec, b: newton_like(b), symmetric=True
    )
    assert not lift(solve, X).loops_on_data


def test_traced_once_traces_again_for_other_shapes_and_types_only() -> None:
    traces = []

    def slow(tree, other):
        traces.append(tree["a"].shape)
        return {"twice": 2 * tree["a"] + other}

    double, programs = traced_once(slow)
    first = double({"a": jnp.ones(3)}, 1.0)
    np.testing.assert_allclose(first["twice"], 3 * np.ones(3))
    jax.jit(lambda a: jax.grad(lambda a: jnp.sum(double({"a": a}, 1.0)["twice"]))(a))(jnp.ones(3))
    jax.vmap(lambda a: double({"a": a}, 1.0))(jnp.ones((2, 3)))
    assert traces == [(3,)]
    double({"a": jnp.ones(4)}, 1.0)
    double({"a": jnp.ones(4, jnp.float32)}, 1.0)
    assert traces == [(3,), (4,), (4,)] and len(programs()) == 3


def test_traced_once_keeps_no_tracer_of_another_trace() -> None:
    def outer(x):
        inner, _ = traced_once(lambda y: x * y)
        return inner(x) + inner(2 * x)

    np.testing.assert_allclose(jax.jit(outer)(3.0), 27.0)
    np.testing.assert_allclose(jax.grad(outer)(3.0), 18.0)
