"""`alignment`: how far a rule's gradient points the way of the derivative of its own prediction's loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.credit import passes
from toolkit.credit.passes import Batch, LearningRule, Loss
from toolkit.errors.readable import readable
from toolkit.settings import require
from toolkit.types import Tree
from toolkit.vocabulary.roles import Rule


class Alignment(NamedTuple):
    """A rule's gradient beside the true one, an entry a layer with parameters; NaN where a norm is 0."""

    cosine: Array  # [K]
    norm_ratio: Array  # [K], the rule's norm over the true one's


@readable
def alignment(
    model: Any, loss: Loss, rule: LearningRule
) -> Callable[[Tree, Any, Batch, Array], Alignment]:
    """A function that measures a rule while it trains: `(params, rule_state, batch, key) -> Alignment`.

        measure = jax.jit(tk.credit.alignment(model, loss, rule))
        cosine, norm_ratio = measure(state.params, state.rule, batch, key)

    The rule is held against the derivative of the loss at *its own* prediction, by reverse mode through
    all that this prediction computes: a Hopfield network computes another function than the forward pass.
    The function is pure, for `jit`, `vmap` over seeds, and the body of a `scan`.

    Args:
      model, loss, rule: as for `tk.credit.train`.

    Raises:
      TypeError: `rule` is none, such as a class in place of an instance.
      ValueError: from the rule, for a model or a loss that it cannot train.

    Cost: a gradient of the rule, and one of reverse mode.
    """
    require("rule", rule, Rule)
    _, gradients = rule(model, loss)
    exact = exact_gradient(model, loss, rule)

    @readable
    def measure(params: Tree, rule_state: Any, batch: Batch, key: Array) -> Alignment:
        got, _, _ = gradients(params, rule_state, batch, key)
        return beside(got, exact(params, batch))

    return measure


def exact_gradient(model: Any, loss: Loss, rule: LearningRule) -> Callable[[Tree, Batch], Tree]:
    """`(params, batch) ->` the gradient of the mean loss at the rule's own prediction."""
    # A rule that says nothing of its prediction predicts as the model does.
    predict = rule.predict(model) if hasattr(rule, "predict") else model.apply

    def mean(params: Tree, batch: Batch) -> Array:
        x, target = batch
        return passes.mean_loss(passes.example_losses(loss, predict(params, x), target))

    return jax.grad(mean)


def by_layer(gradient: Tree) -> tuple[Tree, ...]:
    """The entries of layers; the parameters of an energy without layers are one."""
    return gradient if isinstance(gradient, tuple) else (gradient,)


def beside(got: Tree, wanted: Tree) -> Alignment:
    """Cosine and ratio of norms in each layer that has parameters."""
    pairs = zip(by_layer(got), by_layer(wanted), strict=True)
    found = [_agreement(*pair) for pair in pairs if jax.tree.leaves(pair[1])]
    return Alignment(*map(jnp.stack, zip(*found, strict=True)))


def _agreement(got: Tree, wanted: Tree) -> tuple[Array, Array]:
    own, true = tree.norm(got), tree.norm(wanted)
    # Each is divided by its own norm first: the product of two norms of 1e-25 is 0 in float32.
    unit = lambda of, norm: jax.tree.map(lambda leaf: tree.widened(leaf) / norm, of)
    return tree.vdot(unit(got, own), unit(wanted, true)), jnp.where(true == 0, jnp.nan, own / true)
