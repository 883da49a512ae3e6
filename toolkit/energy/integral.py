"""The integral of an activation, which the energies of a network are made of."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

POINTS = 64  # tanh at u = 20 to 1e-10; a kink at 0, such as relu's, costs nothing


def integral(activation: Callable[[Array], Array], u: Array) -> Array:
    """`R(u)`, the integral of an elementwise `activation` from 0 to `u`, elementwise.

    By Gauss-Legendre quadrature along the straight line, `R(u) = u sum_i w_i activation(t_i u)`. So any
    activation will do, and complex `u` too where it is analytic. The derivative is the activation itself,
    not that of the quadrature: a network settles exactly where its equations say.
    """

    @jax.custom_jvp
    def R(u: Array) -> Array:
        nodes, weights = np.polynomial.legendre.leggauss(POINTS)
        dtype = jnp.finfo(u.dtype).dtype  # the real type beside a complex one
        rows = jnp.asarray((nodes + 1) / 2, dtype), jnp.asarray(weights / 2, dtype)

        def add(total: Array, row: tuple[Array, Array]) -> tuple[Array, None]:
            t, weight = row
            return total + weight * activation(t * u), None

        return u * jax.lax.scan(add, jnp.zeros_like(u), rows)[0]

    @R.defjvp
    def slope(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        (u,), (du,) = primals, tangents
        return R(u), activation(u) * du

    return R(u)
