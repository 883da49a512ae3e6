"""Nonnegative matrices with given sums of rows and columns."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.leaves.promotion import standard_promotion
from toolkit.projection.arguments import no_answer_unless, real, several, vector
from toolkit.projection.simplices import simplex_support
from toolkit.types import Tree

# A hundred rows and columns take about ten, entries of `y` far beyond the sums some 200.
_MAX_STEPS = 1000


@standard_promotion
def transport(y: Tree, sums: tuple[Array, Array]) -> Tree:
    """The nearest `U >= 0` with `U 1 = row_sums` and `U' 1 = column_sums`: `max(Y + p_i + q_j, 0)`.

    The multipliers `p`, `q` maximise the dual, a concave function that is quadratic by pieces: by a
    sweep over rows and columns, each exact, and a Newton step, in turn. NaN where that does not end at
    the projection.

    Args:
      y: a matrix `[M, N]` of real floats, or a tree with that one leaf.
      sums: `(row_sums [M], column_sums [N])`, nonnegative, both with the same sum.

    Raises:
      ValueError: `y` is no such matrix; `sums` of another form.

    Differentiation: `p` and `q` solve a linear system on the support of `U`, the support held. Sums can
      only change together: the derivative in them is meant for changes that keep both totals equal.

    Cost: about ten factorisations of `[M + N, M + N]`, and an eigendecomposition of that size.

    Source: Blondel, Seguy & Rolet 2018, section 3.2 (the dual); Li, Sun & Toh 2020, "On the efficient
    computation of a projector over the Birkhoff polytope", section 3 (Newton).
    """
    y = real(y)
    matrix = _matrix(y)
    sums = several("sums", sums, "row_sums", "column_sums")
    if not all(map(tree.is_numeric, sums)) or any(map(jnp.iscomplexobj, sums)):
        raise ValueError(f"`sums` must be a pair of real vectors: got {tree.describe(sums)}.")
    rows, columns = map(jnp.asarray, sums)
    if rows.shape != matrix.shape[:1] or columns.shape != matrix.shape[1:]:
        raise ValueError(
            f"`sums` must be (row_sums [{matrix.shape[0]}], column_sums [{matrix.shape[1]}]): got "
            f"shapes {rows.shape} and {columns.shape}."
        )
    return _nearest(y, rows, columns)


@standard_promotion
def birkhoff(y: Tree, theta: Tree = None) -> Tree:
    """The nearest doubly stochastic matrix: `transport` with all sums 1.

    Args:
      y: a square matrix of real floats, or a tree with that one leaf.
      theta: not used.

    Raises:
      ValueError: `y` is no such matrix.

    Differentiation, Cost, Source: as for `transport`.
    """
    del theta
    y = real(y)
    matrix = _matrix(y)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"`y` must be a square matrix: got {tree.describe(y)}.")
    ones = jnp.ones(len(matrix), matrix.dtype)
    return _nearest(y, ones, ones)


def _matrix(y: Tree) -> Array:
    leaves = jax.tree.leaves(y)
    if len(leaves) != 1 or leaves[0].ndim != 2:
        raise ValueError(f"`y` must be one matrix: got {tree.describe(y)}.")
    return leaves[0]


def _nearest(y: Tree, rows: Array, columns: Array) -> Tree:
    """`transport` of a tree whose one leaf is a matrix."""
    flat, back = vector(y, rows, columns)
    if not flat.size:
        return back(no_answer_unless(jnp.sum(rows) == jnp.sum(columns), flat))
    matrix = flat.reshape(_matrix(y).shape)
    rows, columns = rows.astype(flat.dtype), columns.astype(flat.dtype)
    eps = jnp.finfo(flat.dtype).eps
    # A row or a column of sum 0 is 0. It has no multiplier, and would have one without bound.
    closed = (rows == 0)[:, None] | (columns == 0)[None, :]
    matrix = jnp.where(closed, 0, matrix)
    held, p, q = jax.lax.stop_gradient((_centred(matrix), rows, columns))
    held = jnp.where(closed, 0, held)
    found = _maximised(held, closed, p, q)
    support = found.plan > 8 * _tolerance(held, p, q)
    # On the support U = Y + p 1' + 1 q' has the sums asked for: a linear system for p and q. It is
    # singular (p + t, q - t give the same U, on each connected part of the support by itself), and the
    # pseudoinverse takes the smallest solution. The matrix holds only zeros, ones and counts of the
    # support, so it has no derivative.
    nearest = jnp.where(support, matrix - jax.lax.stop_gradient(matrix) + held, 0)
    inverse = jnp.linalg.pinv(_curvature(support, flat.dtype), hermitian=True)
    for _ in range(2):  # the second time for the digits that the pseudoinverse rounds away
        missing = jnp.concatenate([rows - jnp.sum(nearest, 1), columns - jnp.sum(nearest, 0)])
        p, q = jnp.split(inverse @ missing, [len(rows)])
        nearest = jnp.where(support, nearest + p[:, None] + q[None, :], 0)
    allowed = 64 * _tolerance(held, rows, columns)
    total = jnp.sum(rows)
    possible = jnp.all(rows >= 0) & jnp.all(columns >= 0) & (total < jnp.inf)
    possible = possible & jnp.all(jnp.isfinite(flat))  # also where a sum of 0 hides the entry
    equal = jnp.abs(total - jnp.sum(columns)) <= 4 * eps * sum(matrix.shape) * total
    right = (_miss(nearest, rows, columns) <= allowed) & (
        jnp.max(jnp.abs(nearest - found.plan)) <= allowed
    )
    return back(no_answer_unless(possible & equal & right, nearest.ravel(), flat, rows, columns))


class _Dual(NamedTuple):
    """Multipliers and the plan `max(Y + p_i + q_j, 0)` that they give."""

    p: Array  # [M]
    q: Array  # [N]
    plan: Array  # [M, N]
    steps: Array  # []


def _maximised(y: Array, closed: Array, rows: Array, columns: Array) -> _Dual:
    """The maximum of the dual, of plans that are 0 where `closed`."""
    size = jnp.maximum(jnp.max(rows), jnp.max(columns))
    size = jnp.where(size > 0, size, 1)
    goal = _tolerance(y, rows, columns)
    plan = lambda p, q: jnp.where(closed, 0, jnp.maximum(y + p[:, None] + q[None, :], 0))
    candidates = jnp.where(closed, -jnp.inf, y)

    def sweep(q: Array) -> tuple[Array, Array]:
        p = _multipliers(candidates + q[None, :], rows)
        return p, _multipliers((candidates + p[:, None]).T, columns)

    def step(s: _Dual) -> _Dual:
        p, q = sweep(s.q)
        now = plan(p, q)
        slope = jnp.concatenate([jnp.sum(now, 1) - rows, jnp.sum(now, 0) - columns])
        # Newton's matrix is singular where the support falls into parts. Damped in proportion to the
        # slope, a step there is as long as the plan is large, and the last steps are Newton's own.
        least = jnp.finfo(y.dtype).eps ** 0.75
        damping = jnp.clip(jnp.max(jnp.abs(slope)) / size, least, 1) * 0.1
        curvature = _curvature(now > 0, y.dtype) + damping * jnp.eye(len(slope), dtype=y.dtype)
        move = -jax.scipy.linalg.solve(curvature, slope, assume_a="pos")
        dp, dq = jnp.split(move, [len(rows)])

        def uphill(t: Array) -> Array:
            # Whether the (negative) dual rises along the move at t. It is convex: it rises from its
            # minimum on. A slope is known to more digits than a value.
            there = plan(p + t * dp, q + t * dq)
            return dp @ (jnp.sum(there, 1) - rows) + dq @ (jnp.sum(there, 0) - columns) > 0

        def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = (low + high) / 2
            rises = uphill(middle)
            return jnp.where(rises, low, middle), jnp.where(rises, middle, high)

        one = jnp.ones((), y.dtype)
        low, _ = jax.lax.fori_loop(0, 20, halve, (0 * one, one))
        t = jnp.where(uphill(one), low, one)
        p, q = p + t * dp, q + t * dq
        return _Dual(p, q, plan(p, q), s.steps + 1)

    def unsolved(s: _Dual) -> Array:
        return (s.steps < _MAX_STEPS) & (_miss(s.plan, rows, columns) > goal)

    zeros = jnp.zeros_like(y)
    start = _Dual(zeros[:, 0], zeros[0], jnp.full_like(y, jnp.inf), jnp.asarray(0))
    return jax.lax.while_loop(unsolved, step, start)


def _multipliers(y: Array, sums: Array) -> Array:
    """The `p` with `sum_j max(y_ij + p_i, 0) = sums_i`; 0 where the sum is 0."""

    def one(y: Array, total: Array) -> Array:
        top = jnp.max(y)
        support = simplex_support(y - top, total)
        tau = (jnp.sum(jnp.where(support, y - top, 0)) - total) / jnp.sum(support)
        return jnp.where(total > 0, -top - tau, 0)

    return jax.vmap(one)(y, sums)


def _curvature(support: Array, dtype: Any) -> Array:
    """The second derivative of the negative dual, `[M + N, M + N]`: which sums a multiplier changes."""
    support = support.astype(dtype)
    rows, columns = jnp.diag(jnp.sum(support, 1)), jnp.diag(jnp.sum(support, 0))
    return jnp.block([[rows, support], [support.T, columns]])


def _centred(y: Array) -> Array:
    """`y` less what is the same in a row or a column, which the projection does not see."""
    y = y - jnp.mean(y, 1, keepdims=True)
    return y - jnp.mean(y, 0, keepdims=True)


def _miss(plan: Array, rows: Array, columns: Array) -> Array:
    """By how much the sums of `plan` miss those asked for, at most."""
    row, column = jnp.abs(jnp.sum(plan, 1) - rows), jnp.abs(jnp.sum(plan, 0) - columns)
    return jnp.maximum(jnp.max(row), jnp.max(column))


def _tolerance(y: Array, rows: Array, columns: Array) -> Array:
    """The rounding of a sum over a row or a column."""
    eps = jnp.finfo(y.dtype).eps
    largest = jnp.max(jnp.abs(y)) + jnp.maximum(jnp.max(rows), jnp.max(columns))
    return 4 * eps * jnp.sqrt(y.shape[0] + y.shape[1]) * largest
