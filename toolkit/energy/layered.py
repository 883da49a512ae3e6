"""A layered Hopfield network: neurons that settle into a minimum of an energy.

`B` examples, `N_k` units in layer `k` of `1..L`; layer 0 is the input, clamped. With potentials `u_k`
and firing rates `rho(u_k)`,

    E(u) = sum over examples of  sum_k |u_k|^2 / 2 - <rho(u_(k-1)) W_k + b_k, rho(u_k)>

(`rho(u_0)` is the input). At rest each potential is what its neighbours send it, from below and from
above through the same weights: `u_k = rho'(u_k) (rho(u_(k-1)) W_k + b_k + rho(u_(k+1)) W_(k+1)')`. So
when the last layer is pulled, the first one moves, too; equilibrium propagation measures by how much.

Source: Hopfield 1984; Scellier & Bengio 2017, equations 1 and 2, the connections cut down to layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Units = Callable[[Array], Array]
Potentials = tuple[Array, ...]  # layers 1..L: [B, N_k]


class Layer(NamedTuple):
    """The connections into a layer."""

    weights: Array  # [N_(k-1), N_k]
    bias: Array  # [N_k]


def tanh(u: Array) -> Array:
    """Rates in (-1, 1), analytic: also for complex nudges."""
    return jnp.tanh(u)


def sigmoid(u: Array) -> Array:
    """`1 / (1 + exp(2 - 4 u))`: rates in (0, 1), slope 1 at its middle 1/2.

    It replaces the hard sigmoid `clip(u, 0, 1)` of the early papers. The minima of that energy lie at its
    kinks, where gradient descent does not settle, and where a small nudge moves nothing.
    """
    return (1 + jnp.tanh(2 * u - 1)) / 2  # analytic in this form


def init(key: Array, sizes: Sequence[int], scale: float = 1.0) -> tuple[Layer, ...]:
    """Layers of the given sizes, input first: Gaussian weights of variance `scale^2 / N_(k-1)`, no bias.

    Args:
      key: a JAX key.
      sizes: `N_0, ..., N_L`, at least two.
      scale: below about 1 the energy is convex, and has one minimum for each input.
    """
    if len(sizes) < 2:
        raise ValueError(f"`sizes` must name an input and a layer at least: got {tuple(sizes)}.")
    keys = jax.random.split(key, len(sizes) - 1)
    return tuple(
        Layer(scale * jax.random.normal(key, (below, here)) / below**0.5, jnp.zeros(here))
        for key, (below, here) in zip(keys, pairwise(sizes), strict=True)
    )


def rest(theta: Sequence[Layer], x: Array) -> Potentials:
    """Potentials of 0, from which a network can settle; x: `[B, N_0]`."""
    return tuple(jnp.zeros((len(x), layer.bias.size), x.dtype) for layer in theta)


def energy(y: Potentials, theta: Sequence[Layer], x: Array, units: Units = tanh) -> Array:
    """`E`, summed over the examples, so that each settles as it would alone.

    Args:
      y: potentials of layers 1 to L, `[B, N_k]`.
      theta: the layers.
      x: the input, `[B, N_0]`.
      units: `rho`, elementwise, bounded; `tanh` or `sigmoid`.

    Cost: two products with each `W_k`, and as many for the gradient.
    """
    rates = [x, *map(units, y)]
    leak = [jnp.sum(u**2) / 2 for u in y]
    drive = [
        jnp.sum((below @ layer.weights + layer.bias) * here)
        for layer, (below, here) in zip(theta, pairwise(rates), strict=True)
    ]
    return jnp.sum(jnp.stack(leak) - jnp.stack(drive))
