"""A direct solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.errors.readable import readable
from toolkit.linear.judge import flat_system, judge
from toolkit.types import LinearInfo, Tree

_POWER_STEPS = 3  # on the inverse: what they lengthen most is found in two or three


@dataclass(frozen=True)
class Dense:
    """Materialise `A`; Cholesky where it is symmetric positive definite, LU elsewhere.

    A symmetric matrix that Cholesky refuses sets `info.negative_curvature`. A matrix that is
    singular to working precision ends with `STEP_LIMIT` whatever its residual says, or with NaN and
    `NOT_FINITE` where a pivot is exactly 0: its solution is not determined by the data. The status compares the residual with `sqrt(eps)`.

    Cost: `n` products (one batched product) and `n^3 / 3` to `2 n^3 / 3` operations; memory `n^2`.
    """

    @readable
    def __call__(
        self, matvec: tree.Matvec, b: Tree, x0: Tree | None = None
    ) -> tuple[Tree, LinearInfo]:
        del x0  # a direct solve has no use for a start
        product, flat, back = flat_system(matvec, b)
        identity = jnp.eye(flat.size, dtype=flat.dtype)
        columns = jax.vmap(product)(tree.vary(identity, tree.varying_axes(flat)))
        matrix = columns.T  # row j of `columns` is A e_j
        eps = max([float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(b)], default=0.0)
        solution, symmetric, definite, singular = _solve(matrix, flat, eps)
        negative = symmetric & ~definite & jnp.all(jnp.isfinite(matrix))
        # No residual passes a negative tolerance: a singular system never counts as solved.
        tol = jnp.where(singular, -1.0, eps**0.5)
        return judge(matvec, b, back(solution), flat.size, tol, negative)


def _solve(matrix: Array, b: Array, eps: float) -> tuple[Array, Array, Array, Array]:
    """(solution, symmetric, positive definite, singular to working precision)."""
    n = max(b.size, 1)
    scale = jnp.max(jnp.abs(matrix), initial=0)
    symmetric = jnp.max(jnp.abs(matrix - matrix.conj().T), initial=0) <= 10 * n * eps * scale
    factor = jnp.linalg.cholesky(matrix)
    definite = symmetric & jnp.all(jnp.isfinite(factor))

    def by_cholesky() -> tuple[Array, Array, Array]:
        pivots = jnp.square(jnp.abs(jnp.diagonal(factor)))
        solve = lambda b: jax.scipy.linalg.cho_solve((factor, True), b)
        return solve(b), pivots, _growth(solve, b)

    def by_lu() -> tuple[Array, Array, Array]:
        factors = jax.scipy.linalg.lu_factor(matrix)
        solve = lambda b: jax.scipy.linalg.lu_solve(factors, b)
        return solve(b), jnp.abs(jnp.diagonal(factors[0])), _growth(solve, b)

    solution, pivots, growth = jax.lax.cond(definite, by_cholesky, by_lu)
    largest = jnp.max(pivots, initial=0)
    singular = jnp.min(pivots, initial=jnp.inf) <= n * eps * largest
    # The pivots of a rotated matrix can all be moderate.
    return solution, symmetric, definite, singular | (n * eps * scale * growth >= 1)


def _growth(solve: Callable[[Array], Array], like: Array) -> Array:
    """A lower bound of the 2-norm of the inverse: how much it lengthens some vector."""

    def power(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        vector = solve(carry[0] / tree.norm(carry[0]))
        return vector, tree.norm(vector)

    if like.size == 0:
        return jnp.zeros((), jnp.finfo(like.dtype).dtype)
    start = jax.random.normal(jax.random.key(0), like.shape, like.dtype)
    start = tree.vary(start, tree.varying_axes(like))
    return jax.lax.fori_loop(0, _POWER_STEPS, power, (start, tree.norm(start)))[1]
