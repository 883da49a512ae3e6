"""`LocalLosses`: each hidden layer learns to be read out, and hears nothing from above.

A linear read-out of each hidden layer, learned beside it, has the loss of the network:

    delta_k = act'(a_k) dloss(head_k(h_k), target)/dh_k,    delta_L = act'(a_L) dloss/dh_L
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit.credit import passes, readouts
from toolkit.credit.passes import Batch, Info, Learner, Loss
from toolkit.optimizers import Adam, Optimizer, built
from toolkit.settings import settings
from toolkit.types import Tree


class HeadState(NamedTuple):
    """The read-outs of the hidden layers, and their optimizer's state."""

    heads: tuple[
        dict[str, Array], ...
    ]  # [k] of hidden layer k, from 0: {"kernel": [N_k, N_L], "bias"}
    optimizer: Any


@settings("local_losses")
class LocalLosses:
    """The loss of a linear read-out at each hidden layer; no signal passes between layers.

    Args:
      optimizer: an optax transformation for the read-outs, which learn in the same call.

    Raises:
      ValueError: a model without layers.

    State: `HeadState(heads, optimizer)`. A read-out gives what the network's output has: `N_L` numbers.

    Cost: backprop's without its way down, and each read-out's; memory of one layer at a time.

    Source: Nøkland & Eidnes 2019 (the prediction loss alone); Mostafa, Ramesh & Cauwenberghs 2018, whose
    read-outs are fixed.
    """

    optimizer: Optimizer = Adam(1e-3)

    def __call__(self, model: Any, loss: Loss) -> Learner:
        """`(init, gradients)` of a layered model under a loss."""
        model = passes.layers_of("LocalLosses", model)

        def init(key: Array, params: Tree, batch: Batch) -> HeadState:
            units, dtype = readouts.widths(model, params, batch[0])
            keys = jax.random.split(key, len(units))
            heads = tuple(
                readouts.drawn(keys[k], readouts.Linear(count, units[-1], dtype))
                for k, count in enumerate(units[:-1])
            )
            return HeadState(heads, built(self.optimizer).init(heads))

        def gradients(
            params: Tree, state: HeadState, batch: Batch, key: Array
        ) -> tuple[Tree, HeadState, Info]:
            del key
            x, target = batch
            up = passes.forward(model, params, x)
            judged = passes.judge(loss, up.output, target)

            def read(heads: Tree, hidden: tuple[Array, ...]) -> Array:
                """The sum over layers and examples of what the read-outs lose."""
                total = jnp.zeros(())
                for head, h in zip(heads, hidden, strict=True):
                    guess = readouts.applied(head, h).reshape(up.output.shape)
                    total += jnp.sum(passes.example_losses(loss, guess, target))
                return total

            of_heads, errors = jax.grad(read, (0, 1))(state.heads, up.inputs[1:])
            signals = (*errors, judged.error)
            deltas = list(map(passes.through_activation, model.layers, up.pre, signals))
            gradient = passes.gradients_of(model, params, up.inputs, deltas)
            of_heads = jax.tree.map(lambda g: g / len(x), of_heads)
            updates, moments = built(self.optimizer).update(of_heads, state.optimizer, state.heads)
            heads = optax.apply_updates(state.heads, updates)
            return gradient, HeadState(heads, moments), passes.said(judged.mean, gradient)

        return passes.learner(init, gradients)

    def predict(self, model: Any) -> Any:
        """`model.apply`."""
        return model.apply
