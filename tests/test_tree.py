"""Leaves are parted and put together without loss; norms neither overflow nor underflow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toolkit import tree


def _odd() -> dict:
    return {
        "weights": jnp.asarray([1.0, 2.0]),
        "complex": np.asarray([1j]),
        "number": 0.5,
        "count": 3,
        "flags": np.asarray([True, False]),
        "key": jax.random.key(0),
        "nothing": None,
        "name": "relu",
        "act": jnp.tanh,
    }


def test_split_and_merge_are_inverse() -> None:
    odd = _odd()
    parts = tree.split(odd)
    present = lambda part: {name for name, leaf in part.items() if leaf is not None}
    assert present(parts.inexact) == {"weights", "complex", "number"}
    assert present(parts.arrays) == {"count", "flags", "key"}
    assert present(parts.static) == {"name", "act"}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(parts.inexact))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(tree.strong(parts.inexact)))
    merged = tree.merge(*parts)
    assert merged.keys() == odd.keys()
    assert (merged["name"], merged["act"], merged["count"]) == ("relu", jnp.tanh, 3)
    assert merged["nothing"] is None
    np.testing.assert_array_equal(merged["complex"], odd["complex"])


def test_select_parts_by_a_mask() -> None:
    values = {"a": 1, "b": (2, None), "c": 3}
    chosen, rest = tree.select(values, {"a": True, "b": (False, None), "c": False})
    assert chosen == {"a": 1, "b": (None, None), "c": None}
    assert rest == {"a": None, "b": (2, None), "c": 3}
    assert tree.merge(chosen, rest) == values
    assert tree.present(values) == {"a": True, "b": (True, False), "c": True}


def test_real_views_of_complex_leaves_are_inverse() -> None:
    mixed = {"z": jnp.asarray([1 + 2j, -3j]), "x": jnp.asarray([4.0])}
    real = tree.as_real(mixed)
    assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(real))
    back = tree.as_like(mixed, real)
    np.testing.assert_array_equal(back["z"], mixed["z"])
    np.testing.assert_array_equal(back["x"], mixed["x"])
    assert tree.size(mixed) == 5
    np.testing.assert_array_equal(tree.conj(mixed)["z"], np.conj(mixed["z"]))


def test_norm_is_that_of_all_entries() -> None:
    mixed = {"z": jnp.asarray([3 + 4j]), "x": jnp.asarray([[12.0]]), "none": None}
    np.testing.assert_allclose(tree.norm(mixed), 13.0, rtol=1e-15)
    assert tree.norm({}) == 0
    assert tree.norm({"empty": jnp.zeros((0, 2))}) == 0
    assert tree.norm(jnp.zeros(3)) == 0
    assert np.isnan(tree.norm(jnp.asarray([1.0, np.nan])))
    assert np.isinf(tree.norm(jnp.asarray([1.0, -np.inf])))


@pytest.mark.parametrize(
    ("dtype", "size", "rtol"),
    # rounding of each type
    [
        ("float64", 1e-200, 1e-14),
        ("float64", 1e200, 1e-14),
        ("float32", 1e-30, 1e-6),
        ("float32", 1e30, 1e-6),
        ("float16", 1e-4, 2e-3),
        ("float16", 1e4, 2e-3),
        ("float16", 6e4, 2e-3),  # the norm itself is too large for float16
        ("bfloat16", 1e-30, 1e-2),
    ],
)
def test_norm_where_squares_leave_the_type(dtype: str, size: float, rtol: float) -> None:
    got = jax.jit(tree.norm)({"a": jnp.full(3, size, dtype), "b": jnp.asarray(size, dtype)})
    assert got.dtype == (jnp.float64 if dtype == "float64" else jnp.float32)
    np.testing.assert_allclose(float(got), 2 * size, rtol=rtol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_quick_norm_is_the_norm_or_a_bound_of_it(dtype: str) -> None:
    quick = jax.jit(tree.quick_norm)
    values = np.random.default_rng(0).normal(size=50).astype(dtype)
    for scale in (1.0, 1e-15, 1e15):  # squares in the range of both types
        leaves = {"a": scale * values[:20], "b": scale * values[20:]}
        np.testing.assert_allclose(quick(leaves), tree.norm(leaves), rtol=1e-6)
    # Beyond, the squares are 0 or infinite: the norm is at most the bound, and the bound at most the largest entry
    # for each of the 50.
    for size in (1e-30, 1e30) if dtype == "float32" else (1e-200, 1e200):
        leaf = (size * values).astype(dtype)
        exact, bound = float(tree.norm(leaf)), float(quick(leaf))
        assert exact * (1 - 1e-6) <= bound <= 50**0.5 * float(np.abs(leaf).max()) * (1 + 1e-6)
    assert quick(jnp.zeros(3, dtype)) == 0 and quick({}) == 0
    assert np.isnan(quick(jnp.asarray([1.0, np.nan], dtype)))
    assert np.isinf(quick(jnp.asarray([1.0, -np.inf], dtype)))


def test_finiteness() -> None:
    assert tree.all_finite({})
    assert tree.all_finite({"a": jnp.ones(2), "none": None})
    for bad in (np.nan, np.inf, -np.inf):
        assert not tree.all_finite({"a": jnp.ones(2), "b": jnp.asarray([0.0, bad])})
    kept = tree.nan_unless(jnp.asarray(True), {"a": jnp.ones(2, jnp.float16)})
    lost = tree.nan_unless(jnp.asarray(False), {"a": jnp.ones(2, jnp.float16)})
    assert kept["a"].dtype == lost["a"].dtype == jnp.float16
    np.testing.assert_array_equal(kept["a"], 1)
    assert np.all(np.isnan(lost["a"]))


def test_graft_has_the_value_of_one_and_the_derivative_of_the_other() -> None:
    f = lambda x: tree.graft({"v": jnp.floor(x)}, {"v": x**2})["v"]
    assert f(1.5) == 1.0
    assert jax.grad(f)(1.5) == 3.0
    assert jax.jvp(f, (1.5,), (2.0,)) == (1.0, 6.0)
    assert jax.hessian(f)(1.5) == 2.0


def test_description_is_one_readable_line() -> None:
    text = tree.describe({"w": jnp.zeros((2, 3), jnp.float32), "n": 1, "s": "x", "none": None})
    assert text == "{n: int64[], none: None, s: str, w: float32[2,3]}"
