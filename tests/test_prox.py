"""Proximal maps against the minimum that defines them, found by a grid or by optimality conditions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit import prox

Y = jnp.asarray([-2.0, -0.3, 0.0, 0.4, 1.7])
GRID = np.linspace(-3, 3, 600_001)


def _by_grid(penalty: Any, y: np.ndarray, step_size: float) -> np.ndarray:
    """Entry by entry, `argmin_u penalty(u) + (u - y)^2 / (2 step_size)` to 1e-5."""
    return np.asarray(
        [GRID[np.argmin(penalty(GRID) + (GRID - a) ** 2 / (2 * step_size))] for a in y]
    )


@pytest.mark.parametrize("step_size", [0.3, 1.0])
def test_separable_maps_are_the_minimum_on_a_grid(step_size: float) -> None:
    cases = {
        "lasso": (prox.lasso(Y, 0.7, step_size), lambda u: 0.7 * np.abs(u)),
        "elastic_net": (
            prox.elastic_net(Y, (0.7, 0.5), step_size),
            lambda u: 0.7 * np.abs(u) + 0.25 * u**2,
        ),
        "box": (
            prox.box(Y, (-0.5, 1.0), step_size),
            lambda u: np.where((u >= -0.5) & (u <= 1.0), 0, np.inf),
        ),
    }
    for name, (got, penalty) in cases.items():
        np.testing.assert_allclose(
            got, _by_grid(penalty, np.asarray(Y), step_size), atol=2e-5, err_msg=name
        )


def test_group_lasso_meets_its_optimality_condition() -> None:
    y = jnp.asarray([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    got = prox.group_lasso(y, jnp.asarray([[2.0], [1.0], [0.0]]), 0.5)
    # u + step weight u / |u| = y where the group is on, zero where |y| <= step weight.
    np.testing.assert_allclose(got[0], y[0] * (1 - 1.0 / 5.0))
    np.testing.assert_array_equal(got[1:], 0)
    columns = prox.group_lasso(y, 1.0, 0.5, axis=0)
    norms = np.linalg.norm(y, axis=0)
    np.testing.assert_allclose(columns, y * (1 - 0.5 / norms))


def test_affine_is_the_nearest_point() -> None:
    A, b = jnp.asarray([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]]), jnp.asarray([1.0, 0.5])
    y = {"p": jnp.asarray([1.0, -1.0]), "q": jnp.asarray(2.0)}
    got = prox.affine(y, (A, b))
    flat = np.append(got["p"], got["q"])
    np.testing.assert_allclose(A @ flat, b, atol=1e-12)
    move = flat - np.asarray([1.0, -1.0, 2.0])  # in the row space of A
    np.testing.assert_allclose(A.T @ np.linalg.lstsq(np.asarray(A.T), move)[0], move, atol=1e-12)


def test_derivatives_are_those_of_differences() -> None:
    """In the argument, the parameter and the step size, away from the kinks."""
    y = jnp.asarray([[1.5, -0.8], [0.1, 2.0]])
    maps = {
        "lasso": lambda y, p, s: prox.lasso(y, p, s),
        "elastic_net": lambda y, p, s: prox.elastic_net(y, (p, 2 * p), s),
        "group_lasso": lambda y, p, s: prox.group_lasso(y, p, s),
        "box": lambda y, p, s: prox.box(y, (-p, p), s),
        "affine": lambda y, p, s: prox.affine(y, (jnp.ones((1, 4)), p[None])),
    }
    for name, f in maps.items():
        args = (y, jnp.asarray(0.6), jnp.asarray(0.9))
        tangents = (jnp.cos(y), jnp.asarray(0.7), jnp.asarray(-0.4))
        move = lambda e, args=args, tangents=tangents: [
            a + e * t for a, t in zip(args, tangents, strict=True)
        ]
        expected = (f(*move(1e-6)) - f(*move(-1e-6))) / 2e-6
        _, got = jax.jvp(f, args, tangents)
        np.testing.assert_allclose(got, expected, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_types_are_kept_and_nan_is_not_lost(dtype: str) -> None:
    y = jnp.asarray([jnp.nan, 0.0, 2.0], dtype)
    maps = [
        lambda y: prox.lasso(y, 0.5, 1.0),
        lambda y: prox.elastic_net(y, (0.5, 0.1), 1.0),
        lambda y: prox.group_lasso(y[:, None], 0.5, 1.0)[:, 0],
    ]
    if dtype != "complex64":
        maps.append(lambda y: prox.box(y, (-1.0, 1.0)))
    for f in maps:
        got = f(y)
        assert got.dtype == y.dtype and jnp.isnan(got[0]) and jnp.all(jnp.isfinite(got[1:]))
        assert jnp.all(jnp.isnan(f(jnp.full_like(y, jnp.nan))))


def test_what_is_not_convex_or_empty_is_nan() -> None:
    assert jnp.all(jnp.isnan(prox.lasso(Y, -0.1)))
    assert jnp.all(jnp.isnan(prox.elastic_net(Y, (0.1, -0.1))))
    assert jnp.all(jnp.isnan(prox.group_lasso(Y, -0.1)))
    assert jnp.all(jnp.isnan(prox.box(Y, (1.0, -1.0))))
    assert jnp.all(jnp.isnan(prox.affine(Y, (jnp.ones((2, 5)), jnp.ones(2)))))


def test_parameters_of_another_shape_are_refused() -> None:
    tree = {"a": Y, "b": Y[:2]}
    with pytest.raises(
        ValueError, match=r"`l1` must be one array, or a tree of arrays, that broadcasts"
    ):
        prox.lasso(tree, {"a": 0.1})
    with pytest.raises(ValueError, match=r"`bounds` must be one array.*got float64\[4\]"):
        prox.box(Y, (-1.0, jnp.ones(4)))
    with pytest.raises(
        ValueError, match=r"`system` must be \(A \[M, 5\], b \[M\]\).*\(2, 4\) and \(2,\)"
    ):
        prox.affine(Y, (jnp.ones((2, 4)), jnp.ones(2)))
    assert tk.prox is prox
