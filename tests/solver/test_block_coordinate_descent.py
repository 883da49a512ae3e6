"""`BlockCoordinateDescent` against sweeps by hand, scikit-learn, optimality conditions and closed forms."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Lasso, MultiTaskLasso

import toolkit as tk
from tests.traces import counted
from toolkit.adjoint import Forward, Implicit, Nudged, Reversible, Stopped, Unroll
from toolkit.linear import CG
from toolkit.solver import BlockCoordinateDescent, ProximalGradient

_random = np.random.default_rng(0)
X = _random.normal(size=(30, 6))
TRUTH = np.asarray([2.0, -1.0, 0.0, 0.0, 1.5, 0.0])
TARGETS = X @ TRUTH + 0.1 * _random.normal(size=30)
TASKS = X @ np.outer(TRUTH, [1.0, -0.5]) + 0.1 * _random.normal(size=(30, 2))
L1 = 0.1
SEARCHED = BlockCoordinateDescent(tk.prox.lasso, None, 200, 1e-12)
GIVEN = BlockCoordinateDescent(tk.prox.lasso, 0.5, 400, 1e-12)
solvers = pytest.mark.parametrize("solver", [SEARCHED, GIVEN], ids=["searched", "given"])


def squares(y: Any, theta: Any) -> jax.Array:
    return 0.5 * jnp.mean((X @ y - TARGETS) ** 2)


def _solution(theta: Any) -> jax.Array:
    """On the support of this file's numbers, with their signs."""
    y = Lasso(alpha=L1, fit_intercept=False, tol=1e-14, max_iter=10**6).fit(X, TARGETS).coef_
    on = np.flatnonzero(y)
    gram = jnp.asarray(X[:, on].T @ X[:, on] / 30)
    values = jnp.linalg.solve(gram, X[:, on].T @ TARGETS / 30 - theta * np.sign(y[on]))
    return jnp.zeros(6).at[on].set(values)


@solvers
@pytest.mark.parametrize(
    "rule", [Implicit(), Implicit(CG(20, 1e-13)), Unroll(), Forward()], ids=str
)
def test_the_lasso_is_its_closed_form(solver: Any, rule: Any) -> None:
    solve = tk.argmin(squares, solver, adjoint=rule)
    composed = lambda theta: jnp.sum(jnp.sin(solve(jnp.zeros(6), theta).value))
    exact = lambda theta: jnp.sum(jnp.sin(_solution(theta)))
    both = lambda f: lambda theta: (f(theta), jax.grad(f)(theta), jax.jacfwd(jax.grad(f))(theta))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)
    jax.tree.map(close, jax.jit(both(composed))(jnp.asarray(L1)), both(exact)(jnp.asarray(L1)))


@solvers
def test_the_lassos_of_scikit_learn(solver: Any) -> None:
    how = {"fit_intercept": False, "tol": 1e-14, "max_iter": 10**6}
    run = lambda fun, prox, y0: jax.jit(
        tk.argmin(
            fun, BlockCoordinateDescent(prox, solver.step_size, 400, 1e-11), adjoint=Stopped()
        )
    )(y0, L1)
    got = run(squares, tk.prox.non_negative_lasso, np.zeros(6))
    theirs = Lasso(alpha=L1, positive=True, **how).fit(X, TARGETS).coef_
    np.testing.assert_allclose(got.value, theirs, atol=1e-9)
    assert np.any(theirs == 0) and got.info.status == tk.Status.CONVERGED
    tasks = lambda y, theta: 0.5 * jnp.sum((X @ y - TASKS) ** 2) / 30
    group = lambda z, theta, s: z * jnp.maximum(0, 1 - theta * s / jnp.linalg.norm(z))
    got = run(tasks, group, np.full((6, 2), 0.1))
    theirs = MultiTaskLasso(alpha=L1, **how).fit(X, TASKS).coef_.T
    np.testing.assert_allclose(got.value, theirs, atol=1e-9)
    # The optimality condition: the gradient of a row that is on is -L1 times its direction, else at most L1 long.
    slope, rows = np.asarray(jax.grad(tasks)(got.value, L1)), np.linalg.norm(got.value, axis=1)
    on = rows > 0
    assert 0 < on.sum() < 6
    np.testing.assert_allclose(slope[on], -L1 * got.value[on] / rows[on, None], atol=1e-10)
    assert np.all(np.linalg.norm(slope[~on], axis=1) < L1)


def test_a_sweep_is_the_one_by_hand() -> None:
    """Leaf by leaf, along the first axis, the gradient anew; a scalar is a block."""
    start = {"a": np.asarray([0.3, -0.2]), "b": np.asarray(0.5), "c": np.ones((2, 2))}
    start["none"] = np.zeros((0, 3))
    H = np.diag(np.linspace(1.0, 2.0, 7)) + 0.2

    def fun(y: Any, theta: Any) -> jax.Array:
        flat = jnp.concatenate([jnp.ravel(y[name]) for name in "abc"])
        return 0.5 * flat @ H @ flat - jnp.sum(flat)

    soft = lambda z: np.sign(z) * np.maximum(np.abs(z) - 0.3 * 0.4, 0)
    y = np.concatenate([np.ravel(start[name]) for name in "abc"])
    for _ in range(3):
        for block in ([0], [1], [2], [3, 4], [5, 6]):
            y[block] = soft(y[block] - 0.4 * (H @ y - 1)[block])
    solver = BlockCoordinateDescent(tk.prox.lasso, 0.4, 3, 0.0)
    got = jax.jit(tk.argmin(fun, solver, adjoint=Stopped()))(start, 0.3)
    flat = np.concatenate([np.ravel(got.value[name]) for name in "abc"])
    np.testing.assert_allclose(flat, y, rtol=1e-13)
    step = y - soft(y - 0.4 * (H @ y - 1))
    np.testing.assert_allclose(got.info.residual, np.linalg.norm(step) / 0.4, rtol=1e-12)
    init, step_on = tk.argmin(fun, solver).steps()
    _, info = step_on(init(start, 0.3), 0.3)
    np.testing.assert_allclose(info.value, fun(start, 0.3), rtol=1e-13)


def test_blocks_find_their_own_sizes_and_need_fewer_sweeps() -> None:
    """Curvatures from 1e-3 to 1e3: one step size for all would take a million steps."""
    scales = np.geomspace(1e-3, 1e3, 6)
    fun = lambda y, theta: 0.5 * jnp.sum(scales * (y - 1) ** 2) + 0.1e-3 * jnp.sum(y) ** 2
    got = jax.jit(tk.argmin(fun, BlockCoordinateDescent(lambda z, t, s: z, None, 100, 1e-9)))(
        np.zeros(6), 0.0
    )
    assert got.info.status == tk.Status.CONVERGED and got.info.steps < 60
    slope = jax.grad(fun)(got.value, 0.0)
    np.testing.assert_allclose(slope, 0, atol=1e-9)


def test_evaluations_and_traces() -> None:
    runs: list[None] = []

    @jax.custom_jvp
    def look(y: Any) -> jax.Array:
        shape = jax.ShapeDtypeStruct(y.shape, y.dtype)
        return jax.pure_callback(lambda y: runs.append(None) or y, shape, y)

    look.defjvp(lambda primals, tangents: (look(*primals), tangents[0]))
    fun = lambda y, theta: squares(look(y), theta)
    for step_size, least, most in ((0.5, 5 * 7, 5 * 7), (None, 1 + 5 * 6, 2 * 5 * 6)):
        runs.clear()
        solver = BlockCoordinateDescent(tk.prox.lasso, step_size, 5, 0.0)
        jax.block_until_ready(jax.jit(lambda s=solver: tk.argmin(fun, s)(np.zeros(6), L1).value)())
        assert least <= len(runs) <= most
        counting, traces = counted(squares)
        jax.jit(tk.argmin(counting, solver))(np.zeros(6), L1)
        assert len(traces) == 1


def test_lanes_trees_and_what_prox_closes_over() -> None:
    def value(l1: Any, solver_of: Any, rule: Any) -> jax.Array:
        solver = solver_of(lambda z, _, s: tk.prox.lasso(z, l1, s))
        return jnp.sum(jnp.sin(tk.argmin(squares, solver, adjoint=rule)(jnp.zeros(6)).value))

    blocks = lambda prox: BlockCoordinateDescent(prox, None, 200, 1e-12)
    slope = jax.grad(lambda l1: jnp.sum(jnp.sin(_solution(l1))))(jnp.asarray(L1))
    for rule in (Implicit(), Unroll()):
        got = jax.jit(jax.grad(value), static_argnums=(1, 2))(jnp.asarray(L1), blocks, rule)
        np.testing.assert_allclose(got, slope, rtol=1e-6)
    l1s = jnp.asarray([0.1, 0.2])
    solve = tk.argmin(squares, SEARCHED)
    many = jax.jit(jax.vmap(lambda l1: solve(jnp.zeros(6), l1).value))(l1s)
    whole = tk.argmin(squares, ProximalGradient(tk.prox.lasso, None, 2000, 1e-12, True))
    for l1, one in zip(l1s, many, strict=True):
        np.testing.assert_allclose(one, jax.jit(whole)(jnp.zeros(6), l1).value, atol=1e-10)


def test_refusals_name_the_remedy() -> None:
    slope = lambda solver, rule: jax.grad(
        lambda t: jnp.sum(tk.argmin(squares, solver, adjoint=rule)(jnp.zeros(6), t).value)
    )(L1)
    with pytest.raises(ValueError, match=r"got BlockCoordinateDescent; use the adjoint Implicit"):
        slope(GIVEN, Nudged(0.1))
    with pytest.raises(ValueError, match=r"got BlockCoordinateDescent; use the adjoint Unroll"):
        slope(GIVEN, Reversible())
    with pytest.raises(ValueError, match=r"`solver` must solve `root`"):
        tk.root(lambda y, t: y, GIVEN)(jnp.zeros(6), L1)
    wide = BlockCoordinateDescent(tk.prox.lasso, lambda theta, t: jnp.full(6, 0.1), 9, 1e-6)
    with pytest.raises(
        ValueError, match=r"`step_size` must be a scalar for each sweep .*\(6,\); None"
    ):
        tk.argmin(squares, wide)(jnp.zeros(6), L1)
    bad = BlockCoordinateDescent(lambda z, t, s: jnp.stack([z, z]), 0.1, 9, 1e-6)
    with pytest.raises(ValueError, match=r"`prox` must return a tree like its first argument"):
        tk.argmin(squares, bad)(jnp.zeros(6), L1)
    with pytest.raises(ValueError, match=r"`prox` must be a callable"):
        BlockCoordinateDescent(0.1, 0.1, 9, 1e-6)
    with pytest.raises(ValueError, match=r"`max_steps` must be an int of at least 1: got 0"):
        BlockCoordinateDescent(tk.prox.lasso, 0.1, 0, 1e-6)
