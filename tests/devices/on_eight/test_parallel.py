"""Data parallelism: what one device would return, and how the arrays lie."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import toolkit as tk

MESH = tk.devices.mesh(data=4, model=2)
X, Z = (jax.random.normal(jax.random.key(i), (64, 3)[: 2 - i]) for i in range(2))
THETA = jnp.array([0.1, 0.2, 0.3])


def _loss(theta, x, z, scale=1.0):
    return scale * jnp.mean((jnp.tanh(x @ theta) - z) ** 2)


def test_it_returns_what_one_device_would() -> None:
    fun = lambda theta, x, z, scale: jax.value_and_grad(_loss)(theta, x, z, scale)
    call = tk.devices.data_parallel(fun, MESH)
    for batch in ((X, Z, 2.0), (np.asarray(X), np.asarray(Z), jnp.asarray(2.0))):
        for one, many in zip(fun(THETA, *batch), call(THETA, *batch), strict=True):
            np.testing.assert_allclose(many, one, rtol=1e-13)
            assert many.sharding.is_fully_replicated and len(many.devices()) == 8


def test_explicit_axes_are_no_matter_of_the_function() -> None:
    """On them JAX refuses the product with a transposed matrix that the inner gradient has."""
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Explicit,))

    def gradient(theta, rows):
        x, z = rows.tree
        inner = lambda y, t: rows.mean((x @ y - z) ** 2) + jnp.sum(jnp.exp(t) * y**2)
        solve = tk.argmin(inner, tk.solver.GradientDescent(0.1, 10))
        outer = lambda y, t: rows.mean((x @ y - 2 * z) ** 2)
        return tk.hypergradient(outer, solve)(jnp.zeros(3), theta).gradient

    one, many = (
        tk.devices.data_parallel(gradient, where, axis)(
            THETA, tk.devices.split((X[:63], Z[:63]), where, axis)
        )
        for where, axis in ((MESH, "data"), (mesh, "rows"))
    )
    np.testing.assert_allclose(many, one, rtol=1e-12)
    assert many.sharding.is_fully_replicated


def test_how_the_arrays_lie() -> None:
    """The state on every device, rows over the axis, what lies on the mesh as it is."""
    seen: dict = {}

    def fun(state, batch, own):
        for name, leaf in (("state", state), ("batch", batch["x"]), ("own", own)):
            jax.debug.inspect_array_sharding(leaf, callback=lambda s, n=name: seen.update({n: s}))
        return state + batch["x"].sum() + own.sum() + batch["rate"]

    own = jax.device_put(X[:8], NamedSharding(MESH, PartitionSpec("model")))
    elsewhere = jax.device_put(THETA, jax.devices()[5])  # committed to one device
    tk.devices.data_parallel(fun, MESH)(elsewhere, {"x": X, "rate": 0.1}, own)
    assert seen["state"].is_fully_replicated
    assert seen["batch"].shard_shape(X.shape) == (16, 3)
    assert seen["own"].shard_shape(own.shape) == (4, 3)


def test_the_program_sums_over_devices_and_gathers_nothing() -> None:
    rows = tk.devices.split({"x": X[:63], "z": Z[:63]}, MESH)
    gradient = jax.grad(lambda t, r: r.mean((r.tree["x"] @ t - r.tree["z"]) ** 2))
    text = jax.jit(gradient).lower(tk.devices.replicated(THETA, MESH), rows).compile().as_text()
    assert "all-reduce" in text and "all-gather" not in text
    assert "f64[16,3]" in text and "f64[64,3]" not in text


def test_rows_that_do_not_divide() -> None:
    plain = jax.grad(_loss)(THETA, X[:63], Z[:63])
    said = (
        "`batch[1]['z']` must have rows that 4 devices of 'data' can share equally: got float64[63]; "
        "split it by tk.devices.split"
    )
    with pytest.raises(ValueError, match=re.escape(said)):
        tk.devices.data_parallel(lambda t, x, z: t, MESH)(THETA, X, {"z": Z[:63]})
    rows = tk.devices.split({"x": X[:63], "z": Z[:63]}, MESH)
    loss = lambda t, rows: rows.mean((jnp.tanh(rows.tree["x"] @ t) - rows.tree["z"]) ** 2)
    call = tk.devices.data_parallel(jax.grad(loss), MESH)
    np.testing.assert_allclose(call(THETA, rows), plain, rtol=1e-13)


def test_leaves_of_every_kind() -> None:
    def fun(state, batch):
        noise = jax.vmap(jax.random.normal)(batch["keys"])
        return {"w": state["w"] + noise.sum() + batch["none"].sum(), "key": state["key"], "n": 3}

    state = {"w": jnp.ones((), jnp.bfloat16), "key": jax.random.key(1)}
    keys = jax.random.split(jax.random.key(2), 8)
    call = tk.devices.data_parallel(fun, MESH)
    result = call(state, {"keys": keys, "none": jnp.zeros((0, 3))})
    expected = fun(state, {"keys": keys, "none": jnp.zeros((0, 3))})
    np.testing.assert_allclose(result["w"], expected["w"], rtol=1e-13)
    assert jax.random.key_data(result["key"]).tolist() == jax.random.key_data(state["key"]).tolist()
    assert result["key"].sharding.is_fully_replicated and result["n"] == 3


def test_it_is_differentiated_and_compiled_around_the_call() -> None:
    call = tk.devices.data_parallel(_loss, MESH)
    rows = tk.devices.split((X, Z), MESH).tree
    for batch in ((X, Z), rows):
        for order in (0, 1):
            expected = jax.grad(_loss, order)(THETA, X, Z)
            for way in (jax.grad(call, order), jax.jit(jax.grad(call, order))):
                np.testing.assert_allclose(way(THETA, *batch), expected, rtol=1e-12)
        np.testing.assert_allclose(
            jax.hessian(call)(THETA, *batch), jax.hessian(_loss)(THETA, X, Z), rtol=1e-12
        )


def test_it_is_compiled_once() -> None:
    traces = []

    def fun(state, x, rate):
        traces.append(1)
        return state + rate * x.mean(0)

    call, state = tk.devices.data_parallel(fun, MESH), THETA
    for step in range(3):
        state = call(state, X + step, 0.1 * step)
    # The state of the first call and the results of the others lie alike.
    assert len(traces) == 1
    with pytest.raises(TypeError, match="`fun` must be callable: got 3"):
        tk.devices.data_parallel(3, MESH)
