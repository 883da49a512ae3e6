"""`Neumann`: the inverse as a truncated power series."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.errors.readable import readable
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.linear.judge import (
    checked,
    judge,
    over_devices,
    real_dot,
    start,
)
from toolkit.settings import Count, NonNegative, Positive, settings
from toolkit.types import LinearInfo, Matvec, Tree

_POWER_STEPS = 10  # products spent on the largest eigenvalue when no step is given
# A power iteration underestimates the largest eigenvalue, and a step above 2 / lambda_max diverges. The
# margin makes up for an estimate that is a little too small.
_MARGIN = 1.1


@settings("neumann")
class Neumann:
    """`x = step_size * sum_{j < num_terms} (I - step_size A)^j b`.

    Converges for `0 < step_size < 2 / lambda_max(A)` when `A` is symmetric positive definite;
    the error after `k` terms is at most `(1 - step_size * mu)^k`, mu the smallest eigenvalue. At a
    fixed point `A = I - J`, and `step_size=1` is the usual series `b + J b + J^2 b + ...`, which
    converges where the map is a contraction, symmetric or not.

    Args:
      num_terms: terms of the series; with `x0`, of the series for the correction.
      step_size: None estimates `1 / lambda_max` by 10 power iterations from a fixed random start
        (`Re(1 / lambda)`, of the eigenvalue that they find, where `A` is not symmetric).
      tol: relative to ||b||; decides the status only, the number of terms is fixed.

    Returns: NaN where the series diverges: its residual is above ||b||, that of x = 0, and above that
    of `x0`.

    Cost: `num_terms` products (one for the residual included), 10 more for the estimate.

    Source: Lorraine, Vicol & Duvenaud 2020, section 4; Ghadimi & Wang 2018.
    """

    symmetric_only: ClassVar[bool] = True
    num_terms: Count
    step_size: Positive | None = None
    tol: NonNegative = 1e-3

    @readable
    def __call__(self, matvec: Matvec, b: Tree, x0: Tree | None = None) -> tuple[Tree, LinearInfo]:
        b, x0 = over_devices(matvec, b, x0)
        matvec = checked(matvec, b)
        step_size = _step_size(matvec, b) if self.step_size is None else self.step_size
        x, size = start(b, x0), tree.norm(b)
        # x_{k+1} = x_k + step_size (b - A x_k): from x_0 = 0 its k-th iterate is the k-term series.
        if x0 is None:
            x, first = tree.add_scaled(x, step_size, b), size
        else:
            r = optax.tree.sub(b, matvec(x))
            x, first = tree.add_scaled(x, step_size, r), tree.norm(r)

        def term(_: Array, x: Tree) -> Tree:
            return tree.add_scaled(x, step_size, optax.tree.sub(b, matvec(x)))

        x = jax.lax.fori_loop(0, self.num_terms - 1, term, x)
        products = self.num_terms - (x0 is None) + (_POWER_STEPS if self.step_size is None else 0)
        x, info = judge(matvec, b, x, self.num_terms, self.tol, products=products)
        # What a diverging series ends with is a large number that says nothing. `jax.grad` would pass it
        # on without a word, as it has no status.
        diverged = info.residual * jnp.where(size == 0, 1, size) > jnp.maximum(first, size)
        return tree.nan_unless(~diverged, x), info


def _step_size(matvec: Matvec, like: Tree) -> Array:
    """`Re(1 / lambda)`, of the largest eigenvalue by a power iteration, less a margin; `[]`."""
    vector = vary(optax.tree.random_like(jax.random.key(0), like), varying_axes(like))

    def power(_: Array, carry: tuple[Tree, Array]) -> tuple[Tree, Array]:
        vector, _ = carry
        norm = tree.norm(vector)
        unit = jax.tree.map(lambda leaf: tree.safe_divide(leaf, norm).astype(leaf.dtype), vector)
        product = matvec(unit)
        # <u, A u> / |A u|^2: 1 / lambda at an eigenvector of a symmetric A, with its sign, and
        # Re(lambda) / |lambda|^2 in the plane of a complex pair, along which 1 / |lambda| may diverge.
        size = tree.norm(product)
        along = tree.safe_divide(real_dot(unit, product), size)
        return product, tree.safe_divide(along, size).astype(norm.dtype)

    start = vector, jnp.ones_like(tree.norm(vector))
    _, step_size = jax.lax.fori_loop(0, _POWER_STEPS, power, start)
    return step_size / _MARGIN
