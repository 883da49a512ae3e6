"""`descending`: any energy, settled by gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.energy.energy_model import Cost, EnergyModel
from toolkit.settings import Positive, require
from toolkit.types import Tree


def descending(
    init: Callable[[Array, Array], Tree],
    rest: Callable[[Tree, Array], Tree],
    energy: Callable[[Tree, Array, Tree], Array],
    output: Callable[[Tree, Array, Tree], Array],
    step_size: float | Array,
) -> EnergyModel:
    """An energy of one's own; a sweep is a gradient step, `state - step_size dE/dstate`.

    Args:
      init: `(key, x) -> params`.
      rest: `(params, x) -> state`, a tree from which it settles.
      energy: `(params, x, state) -> [B]`, each example by itself.
      output: `(params, x, state) -> [B, ...]`.
      step_size: below 2 over the largest curvature of an example's energy; a number or an array `[]`.

    Raises:
      ValueError: one of the four is no function, `step_size` not positive; from `update`, a `clamp`: where
        the output is made of the state there is nothing to hold.
    """
    for name, function in {"init": init, "rest": rest, "energy": energy, "output": output}.items():
        if not callable(function):
            raise ValueError(f"`{name}` must be a function: got {function!r}.")
    require("step_size", step_size, Positive)

    def update(
        params: Tree, x: Array, state: Tree, cost: Cost | None = None, clamp: Array | None = None
    ) -> Tree:
        if clamp is not None:
            raise ValueError(
                "`clamp` needs an energy whose output is a part of its state: got tk.energy.descending; "
                "use EquilibriumPropagation, which pulls at the output instead of holding it."
            )

        def total(state: Tree) -> Any:
            energies = energy(params, x, state)
            costs = 0 if cost is None else cost(output(params, x, state))
            return jnp.sum(energies + costs)

        # For complex states the complex derivative, which an analytic energy has.
        value, pullback = jax.vjp(total, state)
        (gradient,) = pullback(jnp.ones_like(value))
        return jax.tree.map(lambda s, g: s - step_size * g, state, gradient)

    return EnergyModel(init, rest, energy, output, update)
