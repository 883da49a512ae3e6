"""Stochastic solutions of `d2_yy g v = b`, by products with the Hessian of batches.

For `0 < a < 2 / L` the Neumann series gives the inverse, `H^{-1} = a (I + P + P^2 + ...)` with `P = I - a H`.
Each factor has a batch of its own. The mean of a product of independent factors is the product of their
means; with one batch for two factors the mean of its square would stand in place of `P^2`, a bias.

`batches` has one entry a product along its leading axis; the q-th product sees the q-th entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.types import Tree

Product = Callable[[Array, Tree], Tree]  # (entry, v) -> d2_yy g_B v, B the batch of the entry


class StochasticInverse(NamedTuple):
    """How a linear system is solved with at most `products` products, each with a batch of its own."""

    products: int
    # (product, b, batches, key) -> (v near H^{-1} b, products used)
    apply: Callable[[Product, Tree, Array, Array], tuple[Tree, Any]]


def by_sum(step_size: float, products: int) -> StochasticInverse:
    """The Neumann series of `products + 1` terms, each product with a batch of its own (SHIA)."""

    def apply(product: Product, b: Tree, batches: Array, _: Array) -> tuple[Tree, int]:
        return neumann_sum(product, b, step_size, batches), products

    return StochasticInverse(products, apply)


def by_sample(step_size: float, terms: int, exact: bool) -> StochasticInverse:
    """One random partial product of the Neumann series of `terms` terms (HIA); `exact`: their mean.

    On the whole data only the number of factors is random. `exact` takes the mean over it, which is the
    series itself: it has no noise, and one pass through the factors gives all of its terms.
    """
    if exact:
        return by_sum(step_size, terms - 1)

    def apply(product: Product, b: Tree, batches: Array, key: Array) -> tuple[Tree, Array]:
        length = jax.random.randint(key, (), 0, terms)
        return neumann_sample(product, b, step_size, length, batches), length

    return StochasticInverse(terms, apply)


def series_step_size(settings: Any) -> Any:
    """The step size of a Neumann series: `linear_step_size`, or `inner_step_size` where that is None.

    Raises:
      ValueError: it is a schedule.
    """
    step_size = settings.linear_step_size
    step_size = settings.inner_step_size if step_size is None else step_size
    if callable(step_size):
        raise ValueError(
            "`linear_step_size` must be a number, and given where `inner_step_size` is a schedule: a "
            "series with a shrinking step is no inverse."
        )
    return step_size


def neumann_sum(product: Product, b: Tree, step_size: float, batches: Array) -> Tree:
    """SHIA: `v = a (b + P_1 b + P_2 P_1 b + ...)` with Q products, `P_q = I - a H_{B_q}`.

    Its mean is `(I - P^(Q + 1)) H^{-1} b`, P the mean of the `P_q`.

    Source: Ji, Yang & Liang 2021, equation 7.
    """

    def term(carry: tuple[Tree, Tree], batch: Array) -> tuple[tuple[Tree, Tree], None]:
        w, total = carry
        w = _relaxed(w, product(batch, w), step_size)
        return (w, jax.tree.map(jnp.add, total, w)), None

    (_, total), _ = jax.lax.scan(term, (b, b), batches)
    return jax.tree.map(lambda leaf: (step_size * leaf).astype(leaf.dtype), total)


def neumann_sample(
    product: Product, b: Tree, step_size: float, length: Array | int, batches: Array
) -> Tree:
    """HIA: `v = Q a P_p ... P_1 b` with `p = length`, to be drawn uniformly from 0 ... Q - 1.

    Q is the number of batches. The mean is `(I - P^Q) H^{-1} b`; the variance grows with Q^2.

    Source: Ghadimi & Wang 2018, algorithm 3.
    """
    scale = len(batches) * step_size
    # The mean over p of `P^p b` is `(1 / Q) (b + P b + ... + P^(Q-1) b)`: times Q a it is the series. A loop
    # to the drawn length makes p products, where a scan over all batches would make Q.
    w = jax.lax.fori_loop(0, length, lambda q, w: _relaxed(w, product(batches[q], w), step_size), b)
    return jax.tree.map(lambda leaf: (scale * leaf).astype(leaf.dtype), w)


def descend(product: Product, b: Tree, v: Tree, step_size: float | Array, batches: Array) -> Tree:
    """`v <- v - a (H_B v - b)`, K times: from v the mean is `P^K v + (I - P^K) H^{-1} b`.

    One step is `v <- P v + a b`: what is left of the first v shrinks as P^K, and no term is cut off.
    """

    def one(v: Tree, batch: Array) -> tuple[Tree, None]:
        residual = jax.tree.map(jnp.subtract, product(batch, v), b)
        return _relaxed(v, residual, step_size), None

    return jax.lax.scan(one, v, batches)[0]


def _relaxed(w: Tree, product: Tree, step_size: float | Array) -> Tree:
    return jax.tree.map(lambda a, p: (a - step_size * p).astype(a.dtype), w, product)
