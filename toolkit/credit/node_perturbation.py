"""`NodePerturbation`: noise on every unit, correlated with how each example's loss changes.

a_k + sigma n_k in all layers at once, n_k ~ N(0, I),
delta_k = mean over samples of n_k [loss(noise) - loss(no noise)] / sigma,   each example by itself,
gradient of layer k = (da_k/dparams_k)' delta_k at the activities without noise
"""

from __future__ import annotations

from typing import Any

from jax import Array

from toolkit import estimator, tree
from toolkit.credit import passes
from toolkit.credit.passes import Batch, Info, Learner, Loss
from toolkit.settings import Count, Positive, settings
from toolkit.types import Tree


@settings("node_perturbation")
class NodePerturbation:
    """The derivative by each unit, measured with noise instead of propagated.

    `tk.estimator.NodePerturbation` with every `a_k` of a layered model as a node. In the mean the gradient
    is that of the loss smoothed over the noise; its variance grows with the number of units and falls with
    `num_samples`.

    Args:
      sigma: standard deviation of the noise, in units of `a_k`, positive. Below the square root of the
        dtype's epsilon (3e-4 in float32) what the loss changes by is rounding.
      num_samples: noisy passes.

    Raises:
      ValueError: a model without layers.

    State: `()`.

    Cost: `num_samples + 2` forward passes, and a reverse pass without its way down.

    Source: see `tk.estimator.NodePerturbation`.
    """

    sigma: Positive = 0.01
    num_samples: Count = 1

    def __call__(self, model: Any, loss: Loss) -> Learner:
        """`(init, gradients)` of a layered model under a loss."""
        layers = passes.layers_of("NodePerturbation", model).layers
        rule = estimator.NodePerturbation(self.sigma, self.num_samples)

        def gradients(params: Tree, state: Any, batch: Batch, key: Array) -> tuple[Tree, Any, Info]:
            x, target = batch

            def losses(params: Tree, perturb: Any) -> Array:
                h = x
                for k, (layer, own) in enumerate(zip(layers, params, strict=True)):
                    h = layer.activation(perturb(f"a_{k + 1}", layer.pre(own, h)))
                return tree.widened(passes.example_losses(loss, h, target))

            value, gradient = rule(losses)(params, key)
            return gradient, state, passes.said(value, gradient)

        return passes.learner(passes.no_state, gradients)

    def predict(self, model: Any) -> Any:
        """`model.apply`."""
        return model.apply
