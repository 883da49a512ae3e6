"""The linear solver of the conditions of a constrained minimum: indefinite, perhaps singular."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.derive.constrained import WithMultipliers
from toolkit.linear.judge import flat_system, judge
from toolkit.linear.matrices import growth, matrix_of
from toolkit.types import LinearInfo, Matvec, Tree

_SWEEPS = 4  # of scaling rows and columns to a largest entry of 1
_ROUNDING = 10  # a singular value of up to 10 n eps is rounding alone


def least_norm(matvec: Matvec, b: Tree, x0: Tree | None = None) -> tuple[Tree, LinearInfo]:
    """`A x = b` by LU; where A is singular, the x of least norm after scaling.

    Constraints that say the same twice make A singular, and leave open how a multiplier is shared between them:
    any share will do. Where A leaves `y` itself open there is no derivative of it: these entries are NaN, and so is
    all of x if no x solves the system.

    Cost: as many products as unknowns, `N^3`; where A is singular a singular value decomposition.
    """
    del x0  # a direct solve has no use for a start
    product, flat, back = flat_system(matvec, b)
    eps = float(jnp.finfo(flat.dtype).eps)
    matrix = matrix_of(product, flat)
    scales = _scales(matrix)
    scaled, rhs = scales[:, None] * matrix * scales[None], scales * flat
    factors = jax.scipy.linalg.lu_factor(scaled)
    inverse = lambda c: jax.scipy.linalg.lu_solve(factors, c)
    lengthening = growth(inverse, rhs)
    regular = jnp.isfinite(lengthening) & (_ROUNDING * flat.size * eps * lengthening < 1)
    in_y = tree.size(b.y) if isinstance(b, WithMultipliers) else 0
    x = scales * jax.lax.cond(
        regular,
        lambda: inverse(rhs),
        lambda: _of_least_norm(scaled, rhs, eps, in_y),
    )
    left, size = tree.norm(flat - product(x)), tree.norm(flat)
    # A part of `b` that A does not reach: there is no solution.
    x = tree.nan_unless(left <= eps**0.25 * size, x)
    return judge(matvec, b, back(x), flat.size, eps**0.5, False, flat.size + 1, (size, left))


def _scales(matrix: Array) -> Array:
    """Factors of rows and columns alike, by which the largest entry of each is about 1 (Ruiz 2001)."""

    def sweep(_: int, scales: Array) -> Array:
        largest = jnp.max(jnp.abs(scales[:, None] * matrix * scales[None]), 1, initial=0)
        return scales / jnp.sqrt(jnp.where(largest > 0, largest, 1))

    return jax.lax.fori_loop(0, _SWEEPS, sweep, jnp.ones_like(matrix[:, 0]))


def _of_least_norm(matrix: Array, b: Array, eps: float, in_y: int) -> Array:
    """By the singular values that are more than rounding; NaN among the first `in_y` entries that they leave open."""
    left, values, right = jnp.linalg.svd(matrix)
    seen = values > _ROUNDING * len(b) * eps * jnp.max(values, initial=0)
    x = right.T @ jnp.where(seen, left.T @ b / jnp.where(seen, values, 1), 0)
    is_open = jnp.sum(jnp.where(seen[:, None], 0, right**2), 0) > eps**0.5
    return jnp.where(is_open & (jnp.arange(len(b)) < in_y), jnp.nan, x)
