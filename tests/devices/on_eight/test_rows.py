"""Rows over devices: their mean is that of the true rows, value and gradient, whatever their number."""

from __future__ import annotations

import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import toolkit as tk

MESH = tk.devices.mesh()
KEY = jax.random.key(0)


def _x(rows: int, dtype: str = "float64") -> np.ndarray:
    return np.asarray(jax.random.uniform(KEY, (rows, 3), "float32", 1, 2)).astype(dtype)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 64])
def test_rows_are_padded_by_the_last_and_marked(count: int) -> None:
    x = _x(count)
    rows = tk.devices.split({"x": x, "i": np.arange(count)}, MESH)
    total = -(-count // 8) * 8
    assert rows.count == count and rows.mask.shape == (total,) and int(rows.mask.sum()) == count
    assert rows.tree["x"].sharding == NamedSharding(MESH, PartitionSpec("data"))
    assert rows.tree["x"].addressable_shards[0].data.shape == (total // 8, 3)
    np.testing.assert_array_equal(rows.tree["x"][:count], x)
    np.testing.assert_array_equal(rows.tree["i"][count:], count - 1)
    np.testing.assert_array_equal(rows.unpad(rows.tree)["x"], x)
    assert rows.unpad({}) == {}


@pytest.mark.parametrize("count", [1, 63, 64])
def test_the_mean_is_that_of_the_true_rows(count: int) -> None:
    x, theta = _x(count), jnp.array([0.3, -0.2, 0.5])
    rows = tk.devices.split(x, MESH)
    value = lambda x, theta: jnp.log(x @ jnp.exp(theta))
    plain = lambda theta: jnp.mean(value(x, theta))
    # The rows as an argument, and closed over.
    ways = (
        lambda theta: jax.jit(lambda t, r: r.mean(value(r.tree, t)))(theta, rows),
        jax.jit(lambda t: rows.mean(value(rows.tree, t))),
    )
    for way in ways:
        np.testing.assert_allclose(way(theta), plain(theta), rtol=1e-14)
        for mode in (jax.grad, jax.hessian)[: 1 + (count == 63)]:
            np.testing.assert_allclose(mode(way)(theta), mode(plain)(theta), rtol=1e-12, atol=1e-15)
    per_row = jax.jit(lambda r: r.mean(r.tree**2))(rows)
    np.testing.assert_allclose(per_row, (x**2).mean(0), rtol=1e-14)


def test_one_program_serves_batches_of_any_count() -> None:
    traces = []

    @jax.jit
    def mean(rows):
        traces.append(rows)
        return rows.mean(rows.tree)

    for count in (57, 63, 64):
        rows = tk.devices.split(_x(count), MESH)
        np.testing.assert_allclose(mean(rows), _x(count).mean(0), rtol=1e-14)
    assert len(traces) == 1


def test_nan_in_the_other_rows_is_nothing() -> None:
    rows = tk.devices.split(_x(63), MESH)

    @jax.jit
    def loss(scale, rows):
        return rows.mean(jnp.where(rows.mask, (rows.tree @ scale) ** 2, jnp.nan))

    scale = jnp.arange(1.0, 4)
    value, gradient = jax.value_and_grad(loss)(scale, rows)
    np.testing.assert_allclose(value, ((_x(63) @ scale) ** 2).mean(), rtol=1e-14)
    np.testing.assert_allclose(gradient, 2 * (_x(63) @ scale) @ _x(63) / 63, rtol=1e-13)
    by_values = jax.grad(lambda values: rows.mean(values))(jnp.full(64, jnp.nan))
    np.testing.assert_array_equal(by_values, rows.mask / 63)


def test_a_slope_that_is_finite_in_the_true_rows_is_finite() -> None:
    """Rows of zeros would have the slope infinity here, and the mean's gradient would be NaN."""
    x = _x(63)
    rows = tk.devices.split(x, MESH)
    loss = lambda power, x: jnp.sqrt(x[:, 0] * power) * jnp.log(x[:, 1]) / x[:, 2]
    gradient = jax.grad(lambda power: rows.mean(loss(power, rows.tree)))(2.0)
    np.testing.assert_allclose(gradient, jax.grad(lambda p: loss(p, x).mean())(2.0), rtol=1e-13)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "complex64", "int32", "bool"])
def test_the_mean_has_the_type_of_the_means_of_jax(dtype: str) -> None:
    values = jnp.asarray(100 * _x(4001)[:, 0]).astype(dtype)
    rows = tk.devices.split(values, MESH)
    mean, plain = rows.mean(rows.tree), jnp.mean(values)
    assert mean.dtype == plain.dtype and rows.tree.dtype == values.dtype
    np.testing.assert_allclose(
        mean.astype("complex128"), plain.astype("complex128"), rtol=jnp.finfo(mean.dtype).eps
    )


def test_leaves_of_every_kind_keep_their_rows() -> None:
    data = {
        "image": jnp.arange(63 * 4.0, dtype=jnp.bfloat16).reshape(63, 2, 2),
        "label": np.arange(63, dtype=np.int8),
        "used": np.arange(63) % 2 == 0,
        "key": jax.random.split(KEY, 63),
        "none": None,
    }
    rows = tk.devices.split(data, tk.devices.mesh(model=2, data=4))
    assert rows.tree["none"] is None and rows.tree["image"].dtype == jnp.bfloat16
    back = rows.unpad(rows.tree)
    for name in ("image", "label", "used"):
        np.testing.assert_array_equal(back[name], data[name])
    np.testing.assert_array_equal(*map(jax.random.key_data, (back["key"], data["key"])))
    assert len({str(shard.index) for shard in rows.tree["label"].addressable_shards}) == 4


def test_of_explicit_axes_too() -> None:
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Explicit,))
    rows = tk.devices.split(_x(63), mesh, "rows")
    gradient = lambda t, r: jax.grad(lambda t: r.mean(jnp.tanh(r.tree * t)).sum())(t)
    expected = jax.grad(lambda t: jnp.tanh(_x(63) * t).mean(0).sum())(1.5)
    with jax.set_mesh(mesh):
        np.testing.assert_allclose(jax.jit(gradient)(1.5, rows), expected, rtol=1e-13)


def test_replicated_copies_arrays_and_leaves_the_rest() -> None:
    state = flax.core.freeze({"w": jnp.ones(3), "step": 3, "name": "mlp", "none": None, "key": KEY})
    copied = tk.devices.replicated(state, MESH)
    assert copied["name"] == "mlp" and copied["none"] is None
    for name in ("w", "step", "key"):
        assert copied[name].sharding.is_fully_replicated and len(copied[name].devices()) == 8
    assert tk.devices.replicated({}, MESH) == {}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (3.0, "must have leaves [rows, ...] with at least one row: got float64[]; hand"),
        ({"x": _x(4), "rate": np.float32(1)}, "got float32[] at ['rate']; hand what has no rows"),
        (np.zeros((0, 3)), "with at least one row: got float64[0,3]"),
        ({"x": _x(4), "name": "digits"}, "got str at ['name']"),
        ([1.0, 2.0], "got float64[] at [0]"),
        ({"x": _x(4), "y": {"z": _x(5)}}, "got 4 at ['x'] and 5 at ['y']['z']"),
        ({}, "`tree` must have a leaf, whose rows are split: got {}."),
    ],
)
def test_leaves_without_equal_rows_are_refused(tree: object, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        tk.devices.split(tree, MESH)


def test_an_axis_that_the_mesh_lacks_names_its_own() -> None:
    mesh = tk.devices.mesh(data=4, model=2)
    said = "`axis` must be an axis of the mesh, which has 'data', 'model': got 'batch'."
    for call in (
        lambda: tk.devices.split(_x(8), mesh, axis="batch"),
        lambda: tk.devices.data_parallel(lambda x: x, mesh, axis="batch"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            call()
    with pytest.raises(TypeError, match=r"`mesh` must be a jax\.sharding\.Mesh: got list; use tk"):
        tk.devices.replicated(_x(8), jax.devices())


def test_a_mean_of_other_rows_is_refused() -> None:
    rows = tk.devices.split(_x(63), MESH)
    for values, got in ((jnp.ones((63, 2)), "float64[63,2]"), (jnp.ones(1), "float64[1]")):
        with pytest.raises(
            ValueError,
            match=re.escape(f"each of the 64 rows, those that were added included: got {got}."),
        ):
            rows.mean(values)
        with pytest.raises(ValueError, match=r"`tree` must have leaves of 64 rows"):
            rows.unpad(values)
    with pytest.raises(ValueError, match=r"`values` must have one value for each .*: got \{a: f"):
        rows.mean({"a": np.ones(64)})
    with pytest.raises(ValueError, match=r"`Rows\.unpad` belongs outside jax\.jit"):
        jax.jit(lambda rows: rows.unpad(rows.tree))(rows)


@pytest.mark.parametrize("check", [True, False])
def test_the_mean_of_a_devices_own_rows_is_refused(check: bool) -> None:
    """It would be neither the mean of all rows nor of the device's own."""
    rows = tk.devices.split(_x(63), MESH)
    P = PartitionSpec
    specs = tk.devices.Rows(P("data"), P("data"), P())
    mapped = lambda of: jax.shard_map(
        of, mesh=MESH, in_specs=(specs,), out_specs=P(), check_vma=check
    )
    with pytest.raises(ValueError, match=r"inside jax\.shard_map or jax\.pmap .* write lax\.psum"):
        jax.jit(mapped(lambda rows: rows.mean(rows.tree)))(rows)
    # The remedy works.
    own = lambda rows: jnp.sum(rows.tree[:, 0] * rows.mask)
    mean = jax.jit(mapped(lambda rows: jax.lax.psum(own(rows), "data") / rows.count))(rows)
    np.testing.assert_allclose(mean, _x(63)[:, 0].mean(), rtol=1e-14)
