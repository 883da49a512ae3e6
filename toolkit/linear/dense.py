"""`Dense`: the matrix is formed, and solved directly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.derive.lanes import in_lanes
from toolkit.errors.readable import readable
from toolkit.jaxprs.lift import lift
from toolkit.linear.judge import flat_system, judge, over_devices
from toolkit.linear.matrices import growth, matrix_of
from toolkit.settings import settings
from toolkit.types import LinearInfo, Matvec, Tree

# A difference, or a negative eigenvalue, of up to 10 n eps times the largest entry is rounding alone.
_ROUNDING = 10


@settings("dense")
class Dense:
    """Materialise `A`; Cholesky where it is symmetric and definite, LU elsewhere.

    A symmetric matrix with an eigenvalue below 0 by more than rounding sets `info.negative_curvature`.
    The status compares the residual with `sqrt(eps)`. A matrix that is singular to working precision has
    no solution that the data determine: it ends with `STEP_LIMIT` whatever its residual is. An unknown
    whose pivot is exactly 0 is free and becomes 0, which spoils no other; x is NaN where it then is
    neither a solution nor one of least squares.

    Args:
      cholesky: whether Cholesky is tried. False for a matrix that is not expected to be symmetric, such as the
        Jacobian of an equation: the attempt and the look at its symmetry take a third of the time of a small
        system. A negative curvature is not told then.

    Cost: `n` products (one batched product) and `n^3 / 3` to `n^3` operations; memory `n^2`. Under
    `vmap` a matrix a lane, made for as many lanes at once as 4 MiB hold.
    """

    cholesky: bool = True

    @readable
    def __call__(self, matvec: Matvec, b: Tree, x0: Tree | None = None) -> tuple[Tree, LinearInfo]:
        b, _ = over_devices(matvec, b, None)
        del x0  # a direct solve has no use for a start
        product, flat, back = flat_system(matvec, b)
        eps = tree.eps(b)
        # What the product closes over becomes an argument, so that a batch of systems can be told from a
        # batch of right-hand sides.
        whole = lift(lambda b: _solve(product, b, eps, self.cholesky), flat)
        size = flat.size**2 * flat.dtype.itemsize
        made = in_lanes(whole.call, size, whole.closed, flat)
        # The residual of a singular system may be small by chance. A negative tolerance, which no residual
        # meets, keeps it from counting as solved.
        tol = jnp.where(made.singular, -1.0, eps**0.5)
        norms = (tree.norm(b), made.residual.astype(jax.eval_shape(tree.norm, b).dtype))
        x = back(made.x)
        return judge(matvec, b, x, flat.size, tol, made.negative, flat.size + 1, norms)


class _Solved(NamedTuple):
    x: Array  # [N]
    residual: Array  # [] 2-norm of b - A x
    negative: Array  # [] bool, of negative curvature
    singular: Array  # [] bool, to working precision


def _solve(product: Callable[[Array], Array], b: Array, eps: float, cholesky: bool) -> _Solved:
    n, matrix = max(b.size, 1), matrix_of(product, b)
    scale = _largest(matrix)
    if cholesky:
        rounding = _ROUNDING * n * eps * scale
        (solution, pivots, lengthening), negative = _by_cholesky_or_lu(matrix, b, rounding, eps)
    else:
        (solution, pivots, lengthening), negative = _by_lu(matrix, b), jnp.asarray(False)
    largest = _largest(pivots)
    # A pivot at the size of rounding, against the largest, has no correct digit.
    singular = jnp.min(pivots, initial=jnp.inf) <= n * eps * largest
    # A singular matrix in rotated coordinates can have moderate pivots only. So the growth of its inverse
    # is looked at as well: `scale * lengthening` is a lower bound of the condition number.
    singular |= n * eps * scale * lengthening >= 1
    r = b - product(solution)
    # Elimination on a singular matrix in rotated coordinates divides by rounding, and ends with a large x
    # that solves nothing. An x is kept if it solves the system, or is the best that a singular A admits:
    # A' (b - A x) = 0.
    small, remains = eps**0.25 * _largest(b), _largest(r)
    kept = jax.lax.cond(
        remains <= small,
        lambda: remains <= small,
        lambda: _largest(r.conj() @ matrix) <= eps**0.5 * scale * remains,
    )
    x = jnp.where(kept, solution, jnp.nan)
    return _Solved(x, tree.norm(r), negative, singular)


def _by_cholesky_or_lu(
    matrix: Array, b: Array, rounding: Array, eps: float
) -> tuple[tuple[Array, Array, Array], Array]:
    """The solution with its pivots and growth, and whether there is a negative curvature."""
    symmetric = _largest(matrix - matrix.conj().T) <= rounding
    # Cholesky factorises a positive definite matrix, and the negative of a negative definite one. Both have a
    # diagonal of one sign. With another diagonal it would fail, and LU would be a second factorisation.
    diagonal = jnp.real(jnp.diagonal(matrix))
    sign = jnp.where(jnp.all(diagonal < 0), -1, 1).astype(matrix.dtype)
    promising = symmetric & (jnp.all(diagonal > 0) | jnp.all(diagonal < 0))
    factor = jax.lax.cond(
        promising,
        lambda matrix: jnp.linalg.cholesky(sign * matrix),
        lambda matrix: jnp.full_like(matrix, jnp.nan),
        matrix,
    )
    definite = promising & jnp.all(jnp.isfinite(factor))

    def by_cholesky() -> tuple[Array, Array, Array]:
        pivots = jnp.square(jnp.abs(jnp.diagonal(factor)))
        solve = lambda b: jax.scipy.linalg.cho_solve((factor, True), sign * b)
        return solve(b), pivots, growth(solve, b)

    found = jax.lax.cond(definite, by_cholesky, lambda: _by_lu(matrix, b))
    # An entry of the diagonal is a curvature. Where all of them are positive and Cholesky failed all the same,
    # another attempt tells a curvature below 0 from one of 0, which Cholesky refuses as well.
    negative = symmetric & jnp.any(diagonal < -rounding)
    unsure = symmetric & ~definite & ~negative & jnp.all(jnp.isfinite(matrix))
    negative |= unsure & jax.lax.cond(unsure, partial(_is_indefinite, eps=eps), jnp.any, matrix)
    return found, negative


def _by_lu(matrix: Array, b: Array) -> tuple[Array, Array, Array]:
    factors, order = jax.scipy.linalg.lu_factor(matrix)
    # A pivot of 0 leaves its unknown free. Division by infinity makes that one 0, and spoils no other.
    free = (factors == 0) & jnp.eye(b.size, dtype=bool)
    solve = lambda b: jax.scipy.linalg.lu_solve((jnp.where(free, jnp.inf, factors), order), b)
    return solve(b), jnp.abs(jnp.diagonal(factors)), growth(solve, b)


def _largest(array: Array) -> Array:
    return jnp.max(jnp.abs(array), initial=0)


def _is_indefinite(matrix: Array, eps: float) -> Array:
    """Whether a symmetric matrix has an eigenvalue below 0 by more than rounding."""
    scale = _largest(matrix)
    rounding = _ROUNDING * len(matrix) * eps * scale
    shift = jnp.where(scale == 0, 1, rounding) * jnp.eye(len(matrix), dtype=matrix.dtype)
    return ~jnp.all(jnp.isfinite(jnp.linalg.cholesky(matrix + shift)))
