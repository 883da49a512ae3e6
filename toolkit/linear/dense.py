"""`Dense`: the matrix is formed, and solved directly."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.errors.readable import readable
from toolkit.linear.judge import flat_system, judge
from toolkit.settings import settings
from toolkit.types import LinearInfo, Tree

# Power iterations on the inverse. Where it is nearly singular one direction is lengthened far more than
# all others, and two or three iterations find it.
_POWER_STEPS = 3


@settings("dense")
class Dense:
    """Materialise `A`; Cholesky where it is symmetric positive definite, LU elsewhere.

    A symmetric matrix that Cholesky refuses sets `info.negative_curvature`. The status compares the
    residual with `sqrt(eps)`. A matrix that is singular to working precision has no solution that the
    data determine: it ends with `STEP_LIMIT` whatever its residual is, or with NaN and `NOT_FINITE`
    where a pivot is exactly 0.

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
        eps = tree.eps(b)
        solution, symmetric, definite, singular = _solve(matrix, flat, eps)
        negative = symmetric & ~definite & jnp.all(jnp.isfinite(matrix))
        # The residual of a singular system may be small by chance. A negative tolerance, which no residual
        # meets, keeps it from counting as solved.
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
    # A pivot at the size of rounding, against the largest, has no correct digit.
    singular = jnp.min(pivots, initial=jnp.inf) <= n * eps * largest
    # A singular matrix in rotated coordinates can have moderate pivots only. So the growth of its inverse
    # is looked at as well: `scale * growth` is a lower bound of the condition number.
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
