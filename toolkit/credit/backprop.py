"""`Backprop`: reverse mode, which every other rule is held against."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array

from toolkit.credit import passes
from toolkit.credit.passes import Batch, Info, Learner, Loss
from toolkit.settings import settings
from toolkit.types import Tree


@settings("backprop")
class Backprop:
    """The gradient of the mean loss by reverse mode.

    Works for every model with an `apply`, layered or not.

    Raises:
      ValueError: a model without, such as an energy.

    State: `()`.

    Cost: one forward and one reverse pass.
    """

    def __call__(self, model: Any, loss: Loss) -> Learner:
        """`(init, gradients)` of a model under a loss."""
        if not hasattr(model, "apply"):
            raise ValueError(
                f"`model` must have an `apply(params, x)` for Backprop: got {type(model).__name__}; an "
                "energy is trained by EquilibriumPropagation."
            )

        def mean(params: Tree, batch: Batch) -> Array:
            x, target = batch
            return passes.mean_loss(passes.example_losses(loss, model.apply(params, x), target))

        def gradients(params: Tree, state: Any, batch: Batch, key: Array) -> tuple[Tree, Any, Info]:
            value, gradient = jax.value_and_grad(mean)(params, batch)
            return gradient, state, passes.said(value, gradient)

        return passes.learner(passes.no_state, gradients)

    def predict(self, model: Any) -> Any:
        """`model.apply`."""
        return model.apply
