"""`Neumann`: the inverse as a truncated power series."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.errors.readable import readable
from toolkit.linear.judge import (
    checked,
    judge,
    start,
)
from toolkit.settings import Count, NonNegative, Positive, settings
from toolkit.types import LinearInfo, Tree

_POWER_STEPS = 10  # products spent on the largest eigenvalue when no step is given
# A power iteration underestimates the largest eigenvalue, and a step above 2 / lambda_max diverges. The
# margin makes up for an estimate that is a little too small.
_MARGIN = 1.1


@settings("neumann")
class Neumann:
    """`x = step_size * sum_{j < num_terms} (I - step_size A)^j b`.

    Converges for `0 < step_size < 2 / lambda_max(A)` when `A` is symmetric positive definite;
    the error after `k` terms is at most `(1 - step_size * mu)^k`, mu the smallest eigenvalue.

    Args:
      num_terms: terms of the series; with `x0`, of the series for the correction.
      step_size: None estimates `1 / lambda_max` by 10 power iterations from a fixed random start.
      tol: relative to ||b||; decides the status only, the number of terms is fixed.

    Cost: `num_terms` products (one for the residual included), 10 more for the estimate.

    Source: Lorraine, Vicol & Duvenaud 2020, section 4; Ghadimi & Wang 2018.
    """

    symmetric_only: ClassVar[bool] = True
    num_terms: Count
    step_size: Positive | None = None
    tol: NonNegative = 1e-3

    @readable
    def __call__(
        self, matvec: tree.Matvec, b: Tree, x0: Tree | None = None
    ) -> tuple[Tree, LinearInfo]:
        matvec = checked(matvec, b)
        step_size = 1 / _largest_eigenvalue(matvec, b) if self.step_size is None else self.step_size
        x = start(b, x0)
        # x_{k+1} = x_k + step_size (b - A x_k): from x_0 = 0 its k-th iterate is the k-term series.
        if x0 is None:
            x = tree.add_scaled(x, step_size, b)

        def term(_: Array, x: Tree) -> Tree:
            return tree.add_scaled(x, step_size, optax.tree.sub(b, matvec(x)))

        terms = self.num_terms - 1 if x0 is None else self.num_terms
        x = jax.lax.fori_loop(0, terms, term, x)
        products = terms + (_POWER_STEPS if self.step_size is None else 0)
        return judge(matvec, b, x, self.num_terms, self.tol, products=products)


def _largest_eigenvalue(matvec: tree.Matvec, like: Tree) -> Array:
    """An estimate of the largest eigenvalue from a power iteration, with a margin; `[]`."""
    vector = optax.tree.random_like(jax.random.key(0), like)

    def power(_: Array, carry: tuple[Tree, Array]) -> tuple[Tree, Array]:
        vector, _ = carry
        unit = jax.tree.map(lambda leaf: (leaf / tree.norm(vector)).astype(leaf.dtype), vector)
        product = matvec(unit)
        return product, tree.norm(product)

    scale = tree.norm(vector)
    _, eigenvalue = jax.lax.fori_loop(0, _POWER_STEPS, power, (vector, jnp.ones_like(scale)))
    return _MARGIN * eigenvalue
