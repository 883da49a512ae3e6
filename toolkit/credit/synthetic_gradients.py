"""`SyntheticGradients`: each layer guesses its gradient from its own activity, and does not wait.

A linear map `S_k` of `h_k` (and of the target, `conditional`) guesses `dloss/dh_k` of each example:

    delta_k = act'(a_k) S_k(h_k, target),    delta_L true
    S_k learns  norm(S_k(h_k, target) - J' delta_(k+1))^2: what comes down from the layer above,
    whose own signal is a guess except at the top
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from toolkit.credit import passes, readouts
from toolkit.credit.layered import Layered
from toolkit.credit.passes import Batch, ForwardPass, Info, Learner, Loss
from toolkit.optimizers import Adam, Optimizer, built
from toolkit.settings import settings
from toolkit.types import Tree


class SyntheticState(NamedTuple):
    """What guesses the gradients of the hidden layers, and its optimizer's state."""

    synthesisers: tuple[dict[str, Array], ...]  # [k] of hidden layer k, from 0
    optimizer: Any


@settings("synthetic_gradients")
class SyntheticGradients:
    """Gradients guessed from the activity of each layer (decoupled neural interfaces).

    The gradient of a call is guessed by the synthesisers as they come; they learn in the same call.

    Args:
      conditional: whether the guess sees the target, too.
      optimizer: an optax transformation for the synthesisers.

    Raises:
      ValueError: a model without layers; a target that is neither numbers nor a class `[B]`.

    State: `SyntheticState(synthesisers, optimizer)`; `synthesisers[k]` is `{"kernel": [N_k + C, N_k],
    "bias"}`, zero at first, with `C` numbers of the target (0 where not `conditional`).

    Cost: backprop's products, and two with each synthesiser, of `N_k^2` weights.

    Source: Jaderberg et al. 2017, equation 3. The guesses are of each example's own gradient: that of the
    mean over a batch would be smaller by its size, and a squared error would hardly see it.
    """

    conditional: bool = True
    optimizer: Optimizer = Adam(1e-3)

    def __call__(self, model: Any, loss: Loss) -> Learner:
        """`(init, gradients)` of a layered model under a loss."""
        model = passes.layers_of("SyntheticGradients", model)

        def init(key: Array, params: Tree, batch: Batch) -> SyntheticState:
            del key
            x, target = batch
            units, dtype = readouts.widths(model, params, x)
            seen = self._seen(len(x), target, units[-1], dtype).shape[1]
            synthesisers = tuple(
                readouts.zeros(readouts.Linear(count + seen, count, dtype)) for count in units[:-1]
            )
            return SyntheticState(synthesisers, built(self.optimizer).init(synthesisers))

        def gradients(
            params: Tree, state: SyntheticState, batch: Batch, key: Array
        ) -> tuple[Tree, SyntheticState, Info]:
            del key
            x, target = batch
            up = passes.forward(model, params, x)
            judged = passes.judge(loss, up.output, target)
            classes = passes.flat(up.output).shape[1]
            features = self._seen(len(x), target, classes, up.output.dtype)
            seen = [jnp.concatenate([passes.flat(h), features], axis=1) for h in up.inputs[1:]]
            guesses = [
                readouts.applied(one, h) for one, h in zip(state.synthesisers, seen, strict=True)
            ]
            deltas = _deltas(model, up, guesses, judged.error)
            gradient = passes.gradients_of(model, params, up.inputs, deltas)
            wanted = _from_above(model, params, up, deltas)

            def missed(synthesisers: Tree) -> Array:
                rows = zip(synthesisers, seen, wanted, strict=True)
                errors = [readouts.applied(one, h) - passes.flat(w) for one, h, w in rows]
                return sum((jnp.mean(passes.squared(e)) for e in errors), jnp.zeros(()))

            learned = readouts.learned(missed, state.synthesisers, self.optimizer, state.optimizer)
            return gradient, SyntheticState(*learned), passes.said(judged.mean, gradient)

        return passes.learner(init, gradients)

    def _seen(self, examples: int, target: Any, classes: int, dtype: Any) -> Array:
        """What a synthesiser sees of the target, `[B, C]`; of a target that it does not see, of any form, 0."""
        if not self.conditional:
            return jnp.zeros((examples, 0), dtype)
        return passes.flat(passes.one_hot(target, classes, dtype))

    def predict(self, model: Any) -> Any:
        """`model.apply`."""
        return model.apply


def _deltas(model: Layered, up: ForwardPass, guesses: list[Array], error: Array) -> list[Array]:
    """The signals at all `a_k`: guessed, but true at the top."""
    signals = [guess.reshape(h.shape) for guess, h in zip(guesses, up.inputs[1:], strict=True)] + [
        error
    ]
    return list(map(passes.through_activation, model.layers, up.pre, signals))


def _from_above(model: Layered, params: Tree, up: ForwardPass, deltas: list[Array]) -> list[Array]:
    """What the layer above says that each hidden layer's gradient is."""
    return [
        passes.through_maps(model.layers[k], params[k], up.inputs[k], deltas[k])
        for k in range(1, len(deltas))
    ]
