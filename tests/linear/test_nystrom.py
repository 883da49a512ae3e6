"""The randomised low-rank inverse, against numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.linear import Nystrom

_random = np.random.default_rng(5)
BASIS = np.linalg.qr(_random.normal(size=(30, 30)))[0]
RIGHT = {"a": jnp.asarray(_random.normal(size=(4, 5))), "b": jnp.asarray(_random.normal(size=10))}
FLAT = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(RIGHT)])


def _matvec(matrix: np.ndarray):
    def product(tree):
        flat, unravel = jax.flatten_util.ravel_pytree(tree)
        return unravel(matrix @ flat)

    return product


def _flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


LOW_RANK = {"nystrom": Nystrom(6, 0.1)}  # solvers that invert a matrix of low rank, plus damping


def test_a_matrix_of_low_rank_is_inverted_exactly_with_its_damping() -> None:
    matrix = BASIS[:, :6] @ np.diag([5.0, 4, 3, 2, 1, 0.5]) @ BASIS[:, :6].T
    x, info = jax.jit(LOW_RANK["nystrom"].__call__, static_argnums=0)(_matvec(matrix), RIGHT)
    expected = np.linalg.solve(matrix + 0.1 * np.eye(30), FLAT)
    np.testing.assert_allclose(_flat(x), expected, rtol=1e-6)
    residual = np.linalg.norm(matrix @ expected - FLAT) / np.linalg.norm(FLAT)
    np.testing.assert_allclose(info.residual, residual, rtol=1e-6)
    assert info.status == tk.Status.STEP_LIMIT  # of A x = b, without the damping
    assert info.products == 7


def test_full_rank_is_the_damped_inverse_and_x0_corrects() -> None:
    matrix = BASIS @ np.diag(np.linspace(1, 4, 30)) @ BASIS.T
    damped = matrix + 1e-4 * np.eye(30)
    x, info = Nystrom(30, 1e-4)(_matvec(matrix), RIGHT)
    np.testing.assert_allclose(_flat(x), np.linalg.solve(damped, FLAT), rtol=1e-6)
    assert info.status == tk.Status.CONVERGED
    rough, before = Nystrom(30, 0.5)(_matvec(matrix), RIGHT)
    _, after = Nystrom(30, 0.5)(_matvec(matrix), RIGHT, rough)
    assert after.residual < 0.5 * before.residual


def test_indefinite_and_not_finite_are_said() -> None:
    indefinite = BASIS @ np.diag(np.linspace(-2, 4, 30)) @ BASIS.T
    x, info = Nystrom(30, 0.1)(_matvec(indefinite), RIGHT)
    assert bool(info.negative_curvature)
    assert info.status == tk.Status.NOT_FINITE
    assert np.all(np.isnan(_flat(x)))
    bad = RIGHT | {"b": RIGHT["b"].at[0].set(jnp.nan)}
    x, info = Nystrom(5, 0.1)(_matvec(np.eye(30)), bad)
    assert info.status == tk.Status.NOT_FINITE
    assert np.all(np.isnan(_flat(x)))


@pytest.mark.parametrize(("rank", "damping"), [(0, 0.1), (2.5, 0.1), (3, 0.0), (3, -1.0)])
def test_settings_are_checked(rank, damping) -> None:
    with pytest.raises(ValueError, match=r"`(rank|damping)` must be"):
        Nystrom(rank, damping)
