"""What the rules share: the forward pass, the loss of each example, signals down, gradients, and `Info`.

`delta_k` is a signal at `a_k`, `[B, ...]`: the derivative of each example's own loss by it, or what a
rule has in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.credit.layered import Layer, Layered
from toolkit.derive.pullback import pull
from toolkit.errors.readable import call_as
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.types import Issue, Tree

Loss = Callable[[Array, Any], Array]  # (output [B, ...], target) -> [B]
Batch = tuple[Array, Any]  # (x [B, ...], target)
SETTLED = 1e-2  # a residual up to here counts as converged


class Info(NamedTuple):
    """How a gradient was made; arrays `[]`."""

    loss: Array  # mean over the batch, at the rule's own prediction
    residual: (
        Array  # what one more sweep would change, over how far the nudges moved the state; else 0
    )
    sweeps: Array  # int32, passes over all layers that a relaxation made; else 0
    status: Array  # int32, a `tk.Issue`: INNER_NOT_CONVERGED above 1e-2, NOT_FINITE


class Learner(NamedTuple):
    """What a rule makes of a model and a loss: a pair of pure functions."""

    init: Callable[[Array, Tree, Batch], Any]  # (key, params, batch) -> state
    gradients: Callable[
        [Tree, Any, Batch, Array], tuple[Tree, Any, Info]
    ]  # (params, state, batch, key) -> (gradients like params, state, info)


def learner(
    init: Callable[[Array, Tree, Batch], Any],
    gradients: Callable[[Tree, Any, Batch, Array], tuple[Tree, Any, Info]],
) -> Learner:
    """A rule's pair, whose results differ between devices as its batch does.

    Inside `jax.shard_map` reverse mode would add up the gradients of all devices where the parameters are the
    same on them. Marked as differing, each device has the gradient of its own batch, and `jax.lax.pmean` of
    them is right.
    """

    def marked_init(key: Array, params: Tree, batch: Batch) -> Any:
        axes = varying_axes((key, params, batch))
        return vary(init(*vary((key, params, batch), axes)), axes)

    def marked(params: Tree, state: Any, batch: Batch, key: Array) -> tuple[Tree, Any, Info]:
        given = (params, state, batch, key)
        axes = varying_axes(given)
        return vary(gradients(*vary(given, axes)), axes)

    return Learner(marked_init, marked)


class LearningRule(Protocol):
    """A learning rule: any callable of this form.

    A rule that predicts otherwise than by `model.apply` has a method `predict(model)`, which returns
    `(params, x) -> output`.
    """

    def __call__(self, model: Any, loss: Loss) -> Any: ...


class ForwardPass(NamedTuple):
    """A forward pass through `L` layers."""

    inputs: tuple[Array, ...]  # h_0 .. h_(L-1)
    pre: tuple[Array, ...]  # a_1 .. a_L
    output: Array  # h_L


class Judged(NamedTuple):
    """The loss at an output."""

    mean: Array  # []
    losses: Array  # [B]
    error: Array  # like the output: the derivative of each example's own loss by it


def forward(model: Layered, params: Sequence[Tree], x: Array) -> ForwardPass:
    """All that the network computes on its way up."""
    inputs, pre, h = [], [], x
    for layer, own in zip(model.layers, params, strict=True):
        inputs.append(h)
        pre.append(layer.pre(own, h))
        h = layer.activation(pre[-1])
    return ForwardPass(tuple(inputs), tuple(pre), h)


def shapes(model: Layered, params: Sequence[Tree], x: Array) -> ForwardPass:
    """A forward pass in shapes and dtypes; nothing is computed."""
    return jax.eval_shape(lambda params, x: forward(model, params, x), params, x)


def judge(loss: Loss, output: Array, target: Any) -> Judged:
    """The loss of each example, and its derivative by the output."""
    losses, pullback = jax.vjp(lambda output: example_losses(loss, output, target), output)
    (error,) = pullback(jnp.ones_like(losses))
    return Judged(mean_loss(losses), losses, error)


def example_losses(loss: Loss, output: Array, target: Any) -> Array:
    """`loss(output, target)`, refused where it is not one number an example."""
    losses = call_as("loss", loss, "(output, target)", output, target)
    expected = output.shape[:1]
    if not hasattr(losses, "shape") or losses.shape != expected or not tree.is_inexact(losses):
        raise ValueError(
            f"`loss` must return one real number an example, of shape {expected}: got "
            f"{tree.describe(losses)}; leave the mean over the batch to the rule."
        )
    return losses


def mean_loss(losses: Array) -> Array:
    """The mean, in float32 at least."""
    # In bfloat16 a sum over a batch has two digits.
    wide = jnp.promote_types(losses.dtype, jnp.float32)
    return jnp.mean(losses, dtype=wide)


def through_activation(layer: Layer, a: Array, signal: Array) -> Array:
    """A signal at `h = activation(a)`, brought to `a`: times the slope of the activation there."""
    return pull(layer.activation, a, signal.astype(a.dtype))


def through_maps(layer: Layer, params: Tree, h: Array, delta: Array) -> Array:
    """A signal at `a`, brought down to the layer's input `h`: `J' delta`."""
    return pull(lambda h: layer.pre(params, h), h, delta)


def gradients_of(model: Layered, params: Sequence[Tree], inputs: Any, deltas: Any) -> Tree:
    """The mean over examples of `da_k/dparams_k' delta_k`, the gradient of every layer.

    Args:
      inputs: `h_(k-1)` for each layer, where the maps are differentiated.
      deltas: a signal at `a_k` for each layer, `[B, ...]`.
    """

    def one(layer: Layer, own: Tree, h: Array, delta: Array) -> Tree:
        return pull(lambda own: layer.pre(own, h), own, delta / len(delta))

    return tuple(map(one, model.layers, params, inputs, deltas))


def flat(h: Array) -> Array:
    """`[B, ...]` as `[B, N]`."""
    return h.reshape(len(h), math.prod(h.shape[1:]))


def squared(h: Array) -> Array:
    """`norm(h)^2` of each example, `[B]`."""
    return jnp.sum(flat(h) ** 2, axis=1)


def one_hot(target: Any, classes: int, dtype: Any) -> Array:
    """A target as numbers: classes `[B]`, integers from 0, become one-hot; numbers stay as they are.

    A class outside of `0 .. classes - 1` becomes NaN: a row of zeros would train on without a word.
    """
    if not tree.is_numeric(target) or (_of_integers(target) and jnp.ndim(target) != 1):
        raise ValueError(
            f"`target` must be classes [B], or numbers [B, ...]: got {tree.describe(target)}."
        )
    target = jnp.asarray(target)
    if not _of_integers(target):
        return target.astype(dtype)
    known = (target >= 0) & (target < classes)
    return jnp.where(known[:, None], jax.nn.one_hot(target, classes, dtype=dtype), jnp.nan)


def _of_integers(target: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(target), jnp.integer))


def minus(a: Tree, b: Tree) -> Tree:
    """`a - b`, leaf by leaf."""
    return jax.tree.map(jnp.subtract, a, b)


def relative(change: Tree, moved: Tree, unit: Array | None = None) -> Array:
    """The norm of a change over that of a move; 0 where nothing changes.

    Args:
      unit: a number about as large as the entries, where one is known: they are divided by it before they
        are squared. Without it their largest entry is sought, which is one more pass over them.
    """
    norm = tree.norm if unit is None else partial(norm_in, unit=unit)
    change, moved = norm(change), norm(moved)
    return jnp.where(change == 0, 0, change / jnp.where(moved == 0, 1, moved))


def norm_in(of: Tree, unit: Array | float) -> Array:
    """The 2-norm in units of `unit`."""
    leaves = tree.widened([jnp.abs(leaf) for leaf in jax.tree.leaves(of)])
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf / unit)) for leaf in leaves))


def with_rounding(residual: Array, state: Tree, moved: Array, pull: Array) -> Array:
    """The residual of a network that was nudged, and at least what rounding leaves of the nudge.

    A nudge may be so small that it moves the state by some units in the last place, or not at all. The
    difference of two states is then rounding, though further sweeps change nothing.

    Args:
      state: from which it was nudged.
      moved: `[]`, the norm of the way from there.
      pull: what pulled, zero where nothing did.
    """
    rounded = tree.eps(state) * norm_in(state, 1.0) / jnp.where(moved == 0, 1, moved)
    lost = jnp.where(moved == 0, 1, jnp.minimum(rounded, 1))
    return jnp.maximum(residual, jnp.where(jnp.any(pull != 0), lost, 0))


def said(loss: Array, gradients: Tree, residual: Any = 0.0, sweeps: int = 0) -> Info:
    """`Info`, its status read off the numbers."""
    loss, residual = jnp.asarray(loss), jnp.asarray(residual, jnp.result_type(float))
    finite = tree.all_finite(gradients) & jnp.isfinite(loss) & jnp.isfinite(residual)
    status = jnp.where(finite, 0, int(Issue.NOT_FINITE))
    status |= jnp.where(residual > SETTLED, int(Issue.INNER_NOT_CONVERGED), 0)
    return Info(loss, residual, jnp.asarray(sweeps, jnp.int32), status.astype(jnp.int32))


def no_state(key: Array, params: Tree, batch: Batch) -> tuple:
    """The `init` of a rule that carries nothing."""
    del key, params, batch
    return ()


def layers_of(rule: str, model: Any) -> Layered:
    """The model, refused where a rule needs its layers and there are none."""
    if not isinstance(model, Layered):
        raise ValueError(
            f"`model` must be layers, as made by tk.credit.layered, for {rule}: got "
            f"{type(model).__name__}; an energy is trained by EquilibriumPropagation."
        )
    return model
