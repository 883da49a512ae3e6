"""`DualPropagation`: every neuron has two states, and their difference is the signal.

Between the two states `s+` and `s-` of a neuron the network is nudged towards the target and away from
it; the mean `s = alpha s+ + (1 - alpha) s-` is what the layer above sees:

    a_k = maps_k(s_(k-1))
    f_k = J_(k+1)' (s+_(k+1) - s-_(k+1)),    f_L = -beta dloss/dh_L at the free output
    s+_k = act(a_k + p f_k),    s-_k = act(a_k - (1 - p) f_k)
    gradient of layer k = -1/beta (da_k/dparams_k at s_(k-1))' (s+_k - s-_k)

with `p = 1 - alpha` in the transposed form. There, to first order, `s = act(a)` whatever `alpha` is: the
mean is undisturbed by what comes down, so one sweep down is backprop. In the plain form, `p = alpha`,
this holds at `alpha = 1/2` only.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Interval
from jax import Array

from toolkit import tree
from toolkit.credit import passes
from toolkit.credit.layered import Activation, Layered
from toolkit.credit.passes import Batch, Info, Learner, Loss
from toolkit.settings import Count, NonNegative, Number, Positive, settings
from toolkit.types import Tree

Form = Literal["transposed", "plain"]


class Duals(NamedTuple):
    """One layer: the arguments of the activation at both states, `[B, ...]`, and the signal from above."""

    plus: Array  # s+ = act(plus)
    minus: Array
    signal: Array  # f


@settings("dual_propagation")
class DualPropagation:
    """Two states a neuron, one sweep down: backprop where layers are linear, or as `beta -> 0`.

    Args:
      alpha: in [0, 1]: how far the mean of the two states lies towards the one nearer to the target.
      beta: size of the nudge, positive.
      sweeps: the first goes down, each other one up and down. One is enough in the transposed form.
      form: `transposed` (2024) or `plain` (2023); they coincide at `alpha = 1/2`.
      damping: `d`; every new potential is averaged with the old one, `(new + d old) / (1 + d)`. For the
        plain form away from 1/2, whose sweeps can diverge.

    Raises:
      ValueError: `alpha` outside [0, 1], `beta` not positive; a model without layers.

    State: `()`. `info.residual`: what the way up of one more sweep would change in the states, or what
    rounding leaves of a nudge that is too small for their type.

    Cost: backprop's products, and one more forward pass above the first layer for the residual; each
    further sweep a forward pass and two ways down.

    Source: Høier, Staudt & Zach 2023 (plain); Høier & Zach 2024, equations 8 and 9 (transposed).
    Unlike (Høier & Zach 2024): damping averages the activations' arguments, not their values, so that
    it has the same fixed points whatever the activation is.
    """

    alpha: Annotated[Number, Interval(ge=0, le=1)] = 0.5
    beta: Positive = 0.1
    sweeps: Count = 1
    form: Form = "transposed"
    damping: NonNegative = 0.0

    def __call__(self, model: Any, loss: Loss) -> Learner:
        """`(init, gradients)` of a layered model under a loss."""
        model = passes.layers_of("DualPropagation", model)

        def gradients(params: Tree, state: Any, batch: Batch, key: Array) -> tuple[Tree, Any, Info]:
            x, target = batch
            up = passes.forward(model, params, x)
            judged = passes.judge(loss, up.output, target)
            nudge = -self.beta * judged.error
            free = tuple(Duals(a, a, jnp.zeros_like(a)) for a in up.pre)
            duals = _down(self, model, params, Seen(up.inputs, up.pre), free, nudge)

            def sweep(duals: tuple[Duals, ...], _: None) -> tuple[tuple[Duals, ...], None]:
                raised, seen = _up(self, model, params, x, duals)
                return _down(self, model, params, seen, raised, nudge), None

            duals, _ = jax.lax.scan(sweep, duals, length=self.sweeps - 1)
            raised, _ = _up(self, model, params, x, duals)
            gradient = _gradient(self, model, params, x, duals)
            residual = _residual(self, model, free, duals, raised, nudge)
            return gradient, state, passes.said(judged.mean, gradient, residual, self.sweeps)

        return passes.learner(passes.no_state, gradients)

    def predict(self, model: Any) -> Any:
        """`model.apply`."""
        return model.apply


class Seen(NamedTuple):
    """What every layer got from below, and made of it."""

    inputs: tuple[Array, ...]  # the mean states below
    pre: tuple[Array, ...]  # a_k


def _visit(rule: DualPropagation, a: Array, signal: Array, old: Duals) -> Duals:
    """A layer's two states under a signal from above."""
    share = 1 - rule.alpha if rule.form == "transposed" else rule.alpha
    plus, minus = a + share * signal, a - (1 - share) * signal
    return Duals(_damped(rule, plus, old.plus), _damped(rule, minus, old.minus), signal)


def _damped(rule: DualPropagation, new: Array, old: Array) -> Array:
    return (new + rule.damping * old) / (1 + rule.damping) if _is_damped(rule) else new


def _is_damped(rule: DualPropagation) -> bool:
    return not isinstance(rule.damping, int | float) or rule.damping != 0


def _down(
    rule: DualPropagation,
    model: Layered,
    params: Tree,
    seen: Seen,
    duals: tuple[Duals, ...],
    nudge: Array,
) -> tuple[Duals, ...]:
    """A sweep from the last layer to the first; `nudge` is the last one's signal."""
    moved, signal = list(duals), nudge
    for k in reversed(range(len(moved))):
        layer = model.layers[k]
        moved[k] = _visit(rule, seen.pre[k], signal, duals[k])
        if k:
            gap = _gap(layer.activation, moved[k])
            signal = passes.through_maps(layer, params[k], seen.inputs[k], gap)
    return tuple(moved)


def _up(
    rule: DualPropagation, model: Layered, params: Tree, x: Array, duals: tuple[Duals, ...]
) -> tuple[tuple[Duals, ...], Seen]:
    """A sweep from the first layer to the last, under the signals of the last sweep down."""
    moved, inputs, pre, h = [], [], [], x
    for layer, own, old in zip(model.layers, params, duals, strict=True):
        inputs.append(h)
        pre.append(layer.pre(own, h))
        moved.append(_visit(rule, pre[-1], old.signal, old))
        h = _mean(rule, layer.activation, moved[-1])
    return tuple(moved), Seen(tuple(inputs), tuple(pre))


def _gradient(
    rule: DualPropagation, model: Layered, params: Tree, x: Array, duals: tuple[Duals, ...]
) -> Tree:
    """`-1/beta (da_k/dparams_k)' (s+ - s-)`, at the mean states below."""
    activations = [layer.activation for layer in model.layers]
    means = [_mean(rule, act, d) for act, d in zip(activations[:-1], duals[:-1], strict=True)]
    gaps = [_gap(act, d) / -rule.beta for act, d in zip(activations, duals, strict=True)]
    return passes.gradients_of(model, params, (x, *means), gaps)


def _residual(
    rule: DualPropagation,
    model: Layered,
    free: tuple[Duals, ...],
    here: tuple[Duals, ...],
    later: tuple[Duals, ...],
    nudge: Array,
) -> Array:
    """What the last sweep up changed in the states, or rounding, over how far they are from the free ones."""

    def states(duals: tuple[Duals, ...]) -> list[tuple[Array, Array]]:
        pairs = zip(model.layers, duals, strict=True)
        return [(layer.activation(d.plus), layer.activation(d.minus)) for layer, d in pairs]

    start, now, then = map(states, (free, here, later))
    unit, moved = tree.unit(nudge), passes.minus(now, start)
    # Without damping the first layer has settled: its input and its signal are those of the sweep down.
    settled = 0 if _is_damped(rule) else 1
    residual = passes.relative(passes.minus(then[settled:], now[settled:]), moved, unit)
    # Units that are saturated or dead move by nothing, rightly, however strong the pull.
    pull = passes.through_activation(model.layers[-1], free[-1].plus, nudge)
    return passes.with_rounding(residual, start, unit * passes.norm_in(moved, unit), pull)


def _gap(activation: Activation, duals: Duals) -> Array:
    return activation(duals.plus) - activation(duals.minus)


def _mean(rule: DualPropagation, activation: Activation, duals: Duals) -> Array:
    return rule.alpha * activation(duals.plus) + (1 - rule.alpha) * activation(duals.minus)
