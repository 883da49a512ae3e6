"""`DifferenceTargetPropagation`: each layer is told what it should have been, by learned inverses.

With `f_k` layer k and `g_k` its learned inverse, which leads from `h_(k+1)` to `h_k`,

    t_L = h_L - step_size dloss/dh_L,    t_k = h_k + g_k(t_(k+1)) - g_k(h_(k+1)),
    gradient of layer k: that of  norm(f_k(h_(k-1)) - t_k)^2 / (2 step_size),

the targets held fixed. The difference keeps `t_k = h_k` where `t_(k+1) = h_(k+1)`, however bad the
inverse is. The inverses learn first, to undo the layers around noisy activities:

    norm(g_k(f_(k+1)(h_k + noise n)) - (h_k + noise n))^2
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.credit import passes, readouts
from toolkit.credit.layered import Layered
from toolkit.credit.passes import Batch, Info, Learner, Loss
from toolkit.optimizers import Adam, Optimizer, built
from toolkit.settings import NonNegative, Positive, settings
from toolkit.types import Tree


class InverseState(NamedTuple):
    """The inverses of layers 2 to L, and their optimizer's state."""

    inverses: tuple[dict[str, Array], ...]  # [k]: from h_(k+2) to h_(k+1), hidden layer k from 0
    optimizer: Any


@settings("difference_target_propagation")
class DifferenceTargetPropagation:
    """Targets instead of gradients, brought down by learned inverses.

    The direction is that of Gauss and Newton rather than the gradient: an angle of 50 to 65 degrees to
    backprop's is right.

    Args:
      step_size: of the output towards its target, positive.
      noise: standard deviation of what is added to the activities that the inverses learn from.
      optimizer: an optax transformation for the inverses, one step a call.

    Raises:
      ValueError: a model without layers.

    State: `InverseState(inverses, optimizer)`; `inverses[k]` is `{"kernel": [N_(k+1), N_k], "bias"}`,
    followed by layer k's own activation.

    Cost: two forward passes, and two products with each inverse and their gradients.

    Source: Lee, Zhang, Fischer & Bengio 2015, equations 15 and 16. Unlike (Lee et al., algorithm 1): the first
    target is that of the output, and the last hidden layer hears of it through an inverse, like all others.
    """

    step_size: Positive = 0.1
    noise: NonNegative = 0.1
    optimizer: Optimizer = Adam(1e-3)

    def __call__(self, model: Any, loss: Loss) -> Learner:
        """`(init, gradients)` of a layered model under a loss."""
        model = passes.layers_of("DifferenceTargetPropagation", model)

        def init(key: Array, params: Tree, batch: Batch) -> InverseState:
            units, dtype = readouts.widths(model, params, batch[0])
            keys = jax.random.split(key, len(units))
            inverses = tuple(
                readouts.drawn(keys[k], readouts.Linear(units[k + 1], units[k], dtype))
                for k in range(len(units) - 1)
            )
            return InverseState(inverses, built(self.optimizer).init(inverses))

        def gradients(
            params: Tree, state: InverseState, batch: Batch, key: Array
        ) -> tuple[Tree, InverseState, Info]:
            x, target = batch
            up = passes.forward(model, params, x)
            judged = passes.judge(loss, up.output, target)
            reached = (*up.inputs[1:], up.output)  # h_1 .. h_L
            noisy = _noisy(key, self.noise, reached[:-1])
            above = [_layer(model, params, k + 1, h) for k, h in enumerate(noisy)]

            def undone(inverses: Tree) -> Array:
                back = [_back(model, inverses, k, above[k], h) for k, h in enumerate(noisy)]
                pairs = zip(back, noisy, strict=True)
                return sum((jnp.mean(passes.squared(a - b)) for a, b in pairs), jnp.zeros(()))

            inverses, moments = readouts.learned(
                undone, state.inverses, self.optimizer, state.optimizer
            )
            targets = self._targets(model, inverses, reached, judged.error)
            deltas = [
                passes.through_activation(layer, a, (h - t) / self.step_size)
                for layer, a, h, t in zip(model.layers, up.pre, reached, targets, strict=True)
            ]
            gradient = passes.gradients_of(model, params, up.inputs, deltas)
            return gradient, InverseState(inverses, moments), passes.said(judged.mean, gradient)

        return passes.learner(init, gradients)

    def _targets(
        self, model: Layered, inverses: Tree, reached: tuple[Array, ...], error: Array
    ) -> list[Array]:
        """What each layer should have been, the first layer's first."""
        targets = [reached[-1] - self.step_size * error]
        for k in reversed(range(len(inverses))):
            wanted = _back(model, inverses, k, targets[-1], reached[k])
            got = _back(model, inverses, k, reached[k + 1], reached[k])
            targets.append(reached[k] + wanted - got)
        return targets[::-1]

    def predict(self, model: Any) -> Any:
        """`model.apply`."""
        return model.apply


def _noisy(key: Array, noise: Any, activities: tuple[Array, ...]) -> list[Array]:
    keys = jax.random.split(key, max(len(activities), 1))
    pairs = zip(keys, activities, strict=False)
    return [h + noise * jax.random.normal(k, h.shape, h.dtype) for k, h in pairs]


def _layer(model: Layered, params: Tree, k: int, h: Array) -> Array:
    return model.layers[k].activation(model.layers[k].pre(params[k], h))


def _back(model: Layered, inverses: Tree, k: int, above: Array, like: Array) -> Array:
    """`g_k(above)`, in the shape of the layer it leads to."""
    return model.layers[k].activation(readouts.applied(inverses[k], above).reshape(like.shape))
