"""`FeedbackAlignment`: the signal comes down through weights of its own.

Backprop brings `delta_(k+1)` down through the transposed forward weights, which no neuron could know.
Here it comes down through a layer `B` like the forward one, with weights of its own:

    delta_L = act'(a_L) dloss/dh_L,    delta_k = act'(a_k) J_(k+1)(B_(k+1))' delta_(k+1),
    gradient of layer k = (da_k/dparams_k)' delta_k
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.credit import passes
from toolkit.credit.layered import Layer, Layered
from toolkit.credit.passes import Batch, ForwardPass, Info, Learner, Loss
from toolkit.estimator.sampling import gaussian_like
from toolkit.optimizers import Optimizer, built
from toolkit.settings import settings
from toolkit.types import Tree

Kind = Literal["random", "fixed_sign", "batch_sign", "sign", "kolen_pollack"]


class FeedbackState(NamedTuple):
    """What the way down knows."""

    feedback: Tree  # like params
    scale: Tree  # [] a leaf: the root mean square of the first forward weights
    optimizer: Any  # of the feedback, under `kolen_pollack`; else ()


@settings("feedback_alignment", own_kind="feedback")
class FeedbackAlignment:
    """Backprop whose way down has other weights `B`, kept in `state.feedback`.

    | kind | B |
    |---|---|
    | `random` | Gaussian, drawn once, each leaf as large as the first forward weights (root mean square) |
    | `fixed_sign` | the same magnitudes for ever, with the signs of W today |
    | `batch_sign` | magnitudes drawn in each call, with the signs of W today |
    | `sign` | the signs of W today, times the root mean square of the first W |
    | `kolen_pollack` | moved by `optimizer` along the gradient of W, so that with weight decay in both optimizers B - W shrinks to zero |

    Forward weights take no part in the way down, their signs apart. Maps without parameters, such as
    pooling, are pulled back where the forward pass went.

    Args:
      kind: see above.
      optimizer: an optax transformation for B: that of W, with its weight decay. `kolen_pollack` only.

    Raises:
      ValueError: `kolen_pollack` without `optimizer`; a model without layers.

    State: `FeedbackState(feedback, scale, optimizer)`.

    Cost: that of backprop; memory of a second set of weights.

    Source: Lillicrap et al. 2016 (random); Liao, Leibo & Poggio 2016 (`sign`, `batch_sign`);
    Moskovitz, Litwin-Kumar & Abbott 2018 (`fixed_sign`); Kolen & Pollack 1994, Akrout et al. 2019.
    Unlike (Liao et al.): signs are multiplied by a root mean square, so that a signal keeps its size on the
    way through many layers.
    """

    kind: Kind = "random"
    optimizer: Optimizer | None = None

    def __post_init__(self) -> None:
        if self.kind == "kolen_pollack" and self.optimizer is None:
            raise ValueError(
                '`optimizer` must move the feedback under kind="kolen_pollack": got None; give that of '
                "the forward weights, such as optax.adamw(1e-3, weight_decay=1.0)."
            )

    def __call__(self, model: Any, loss: Loss) -> Learner:
        """`(init, gradients)` of a layered model under a loss."""
        model = passes.layers_of("FeedbackAlignment", model)

        def init(key: Array, params: Tree, batch: Batch) -> FeedbackState:
            scale = jax.tree.map(_root_mean_square, params)
            feedback = signed(self.kind, _draw(key, scale, params), scale, params)
            optimizer = () if self.optimizer is None else built(self.optimizer).init(feedback)
            return FeedbackState(feedback, scale, optimizer)

        def gradients(
            params: Tree, state: FeedbackState, batch: Batch, key: Array
        ) -> tuple[Tree, FeedbackState, Info]:
            x, target = batch
            magnitudes = state.feedback
            if self.kind == "batch_sign":
                magnitudes = _draw(key, state.scale, params)
            feedback = signed(self.kind, magnitudes, state.scale, params)
            up = passes.forward(model, params, x)
            judged = passes.judge(loss, up.output, target)
            deltas = _down(model, params, feedback, up, judged.error)
            gradient = passes.gradients_of(model, params, up.inputs, deltas)
            feedback, optimizer = self._moved(feedback, state.optimizer, gradient)
            return (
                gradient,
                FeedbackState(feedback, state.scale, optimizer),
                passes.said(judged.mean, gradient),
            )

        return passes.learner(init, gradients)

    def _moved(self, feedback: Tree, optimizer: Any, gradient: Tree) -> tuple[Tree, Any]:
        """Kolen and Pollack: both weights get the same gradient, and decay forgets where they differed."""
        if self.kind != "kolen_pollack":
            return feedback, optimizer
        updates, optimizer = built(self.optimizer).update(gradient, optimizer, feedback)
        return optax.apply_updates(feedback, updates), optimizer

    def predict(self, model: Any) -> Any:
        """`model.apply`."""
        return model.apply


def signed(kind: Kind, magnitudes: Tree, scale: Tree, params: Tree) -> Tree:
    """The feedback weights of a kind, from magnitudes and the forward weights of today."""
    if kind in ("random", "kolen_pollack"):
        return magnitudes
    if kind == "sign":
        magnitudes = jax.tree.map(lambda s, w: jnp.full_like(w, s), scale, params)
    # A weight of exactly 0 counts as positive. A sign of 0 would erase the magnitude for ever, since the
    # magnitude is read off the feedback itself.
    return jax.tree.map(lambda b, w: jnp.where(w < 0, -abs(b), abs(b)), magnitudes, params)


def _root_mean_square(w: Array) -> Array:
    return (tree.norm(w) / w.size**0.5).astype(w.dtype)


def _draw(key: Array, scale: Tree, params: Tree) -> Tree:
    return jax.tree.map(lambda s, e: s * e, scale, gaussian_like(key, params))


def _down(
    model: Layered, params: Tree, feedback: Tree, up: ForwardPass, error: Array
) -> list[Array]:
    """`delta_k` of every layer, the last first made from the error."""
    deltas, signal = [], error
    for k in reversed(range(len(model.layers))):
        layer = model.layers[k]
        deltas.append(passes.through_activation(layer, up.pre[k], signal))
        if k:
            signal = _through_feedback(layer, params[k], feedback[k], up.inputs[k], deltas[-1])
    return deltas[::-1]


def _through_feedback(layer: Layer, own: Tree, feedback: Tree, h: Array, delta: Array) -> Array:
    """`delta` at `a`, brought down through `feedback`, each map at the input that the forward pass gave it.

    All maps in one pullback would let the feedback choose the maxima of a pooling that follows.
    """
    pulls = []
    for forward, back in zip(layer.steps(own), layer.steps(feedback), strict=True):
        pulls.append(jax.vjp(back, h)[1])
        h = forward(h)
    for pull in reversed(pulls):
        (delta,) = pull(delta)
    return delta
