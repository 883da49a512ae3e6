"""`EnergyModel`: a network that computes by settling, and what may pull at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.types import Tree

Cost = Callable[[Array], Array]  # output [B, ...] -> [B], what is added to each example's energy


class Update(Protocol):
    """One sweep of relaxation.

    Args:
      params, x: those of the energy.
      state: where the network is.
      cost: `output -> [B]`, added to each example's energy; None adds nothing.
      clamp: a value `[B, ...]` at which the output is held; None leaves it free.
    """

    def __call__(
        self,
        params: Tree,
        x: Array,
        state: Tree,
        cost: Cost | None = None,
        clamp: Array | None = None,
    ) -> Tree: ...


class EnergyModel(NamedTuple):
    """A model whose prediction is read off a state of rest of an energy.

    All functions are pure, and treat each example by itself.
    """

    init: Callable[[Array, Array], Tree]  # (key, x) -> params
    rest: Callable[[Tree, Array], Tree]  # (params, x) -> the state from which it settles
    energy: Callable[[Tree, Array, Tree], Array]  # (params, x, state) -> [B]
    output: Callable[[Tree, Array, Tree], Array]  # (params, x, state) -> [B, ...]
    update: Update


def slope(cost: Cost | None, output: Array) -> Array:
    """The derivative of each example's cost by its output; 0 without a cost.

    For a complex output the complex derivative, which an analytic cost has.
    """
    if cost is None:
        return jnp.zeros_like(output)
    costs, pull = jax.vjp(cost, output)
    (derivative,) = pull(jnp.ones_like(costs))
    return derivative


def settle(
    model: EnergyModel, params: Tree, x: Array, state: Tree, sweeps: int, **pulls: Any
) -> Tree:
    """`sweeps` sweeps of relaxation from `state`; `pulls` are `cost` or `clamp`."""

    def sweep(state: Tree, _: None) -> tuple[Tree, None]:
        return model.update(params, x, state, **pulls), None

    return jax.lax.scan(sweep, state, length=sweeps)[0]
