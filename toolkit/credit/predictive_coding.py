"""`PredictiveCoding`: each layer predicts the next, and learns from what the prediction missed.

With `f_k(h) = act(maps_k(h))`, errors `e_k = h_k - f_k(h_(k-1))` and `E = sum_k norm(e_k)^2 / 2`, the
activities `h_k` (or the errors) move, and then the parameters learn from

    dE/dparams_k = -(df_k/dparams_k)' e_k

| form | the activities | the gradient is |
|---|---|---|
| `z_il` | one wave from the output down; each layer learns when the wave reaches it | backprop's |
| `fixed_prediction` | errors settle while predictions stay those of the forward pass | backprop's |
| `nudged` | settle under `+-beta loss` | equilibrium propagation |
| `clamped` | descend `E`, the output held at `h_L - dloss/dh_L` (the target, for half the squared error) | another direction |
| `error_optimising` | the errors descend `sum norm(e)^2 / 2 + loss` | another, near backprop's where errors are small |
| `augmented_lagrangian` | descend `E + <m, e> + loss`, while `m` grows by `step_size e` | backprop's once `e = 0` |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import energy as energies
from toolkit import tree
from toolkit.credit import passes
from toolkit.credit.equilibrium_propagation import EquilibriumPropagation
from toolkit.credit.layered import Layered
from toolkit.credit.passes import Batch, ForwardPass, Info, Judged, Learner, Loss
from toolkit.errors.frames import warn
from toolkit.settings import Count, Positive, settings
from toolkit.types import Tree

Form = Literal[
    "z_il", "fixed_prediction", "nudged", "clamped", "error_optimising", "augmented_lagrangian"
]
DESCENT_STEPS = 20


@settings("predictive_coding")
class PredictiveCoding:
    """Errors of prediction in place of a signal from above.

    Args:
      form: see the table above.
      beta: size of the nudge (`nudged`), positive.
      steps: sweeps (`nudged`; None is the number of layers) or steps of descent (`clamped`,
        `error_optimising`, `augmented_lagrangian`; None is 20). `z_il` and `fixed_prediction` have none.
      step_size: of the descent.

    Raises:
      ValueError: an unknown form; a model without layers; `steps` where the form has none.

    Warns: UserWarning where `nudged` makes fewer steps than there are layers: a sweep carries the nudge
    down by a layer or two, so that the first layers would not hear of it.

    State: `()`. `info.residual`: what one more step would change, over how far the steps moved the state.

    Cost: backprop's for the first two; a forward and a reverse pass for each step of the others.

    Source: Whittington & Bogacz 2017 (`clamped`); Song et al. 2020 (`z_il`); Millidge, Tschantz & Buckley
    2022 (`fixed_prediction`); Goemaere et al. 2025 (`error_optimising`); Kerjan, Høier & Scellier 2026
    (`nudged`). Unlike (Song et al., algorithm 1): only the layer that the wave reaches is computed; the
    others' later moves never meet a parameter.
    """

    form: Form = "nudged"
    beta: Positive = 0.01
    steps: Count | None = None
    step_size: Positive = 0.1

    def __post_init__(self) -> None:
        if self.steps is not None and self.form in ("z_il", "fixed_prediction"):
            raise ValueError(
                f'`steps` must be None under form="{self.form}", which has one pass: got {self.steps}.'
            )

    def __call__(self, model: Any, loss: Loss) -> Learner:
        """`(init, gradients)` of a layered model under a loss."""
        model = passes.layers_of("PredictiveCoding", model)
        if self.form == "nudged":
            return self._nudged(model)(model, loss)
        make = {
            "z_il": _wave,
            "fixed_prediction": _fixed,
            "clamped": _clamped,
            "error_optimising": _errors,
            "augmented_lagrangian": _lagrangian,
        }[self.form]

        def gradients(params: Tree, state: Any, batch: Batch, key: Array) -> tuple[Tree, Any, Info]:
            del key
            x, target = batch
            up = passes.forward(model, params, x)
            judged = passes.judge(loss, up.output, target)
            network = Network(model, params, x, lambda output: loss(output, target))
            settled = make(self, network, up, judged)
            gradient = passes.gradients_of(model, params, settled.inputs, settled.deltas)
            return (
                gradient,
                state,
                passes.said(judged.mean, gradient, settled.residual, settled.sweeps),
            )

        return passes.learner(passes.no_state, gradients)

    def _nudged(self, model: Layered) -> EquilibriumPropagation:
        depth = len(model.layers)
        steps = depth if self.steps is None else self.steps
        if steps < depth:
            warn(
                f"`steps` {steps} of PredictiveCoding is below the number of layers, {depth}: the nudge "
                "does not reach the first layers; leave it None.",
                UserWarning,
            )
        return EquilibriumPropagation(energies.predictive_coding, self.beta, "centered", 0, steps)

    def predict(self, model: Any) -> Any:
        """`model.apply`."""
        return model.apply


class Network(NamedTuple):
    """One call's model, parameters and input, and the loss of each example by its output."""

    model: Layered
    params: Tree
    x: Array
    losses: Callable[[Array], Array]


class Settled(NamedTuple):
    """Where the parameters learn: the layers' inputs, and `-d(df/dparams)` signals at `a_k`."""

    inputs: tuple[Array, ...]
    deltas: list[Array]
    residual: Any = 0.0
    sweeps: int = 0


def _step_of(network: Network, k: int, h: Array) -> Array:
    layer = network.model.layers[k]
    return layer.activation(layer.pre(network.params[k], h))


def _below(network: Network, k: int, h: Array, error: Array) -> Array:
    """`J' error`: what the error of layer k (from 0) says about its input, `J` that of `f_k` at `h`."""
    _, pullback = jax.vjp(lambda h: _step_of(network, k, h), h)
    (signal,) = pullback(error)
    return signal


def _signals(network: Network, pre: Any, errors: Any) -> list[Array]:
    """`-e_k` brought to `a_k`: the signal that the parameters learn from."""
    return [
        passes.through_activation(layer, a, -e)
        for layer, a, e in zip(network.model.layers, pre, errors, strict=True)
    ]


def _wave(rule: PredictiveCoding, network: Network, up: ForwardPass, judged: Judged) -> Settled:
    # One step of inference at step size 1 moves h_k by J' e_(k+1). Layer k learns in the step in which its
    # error first differs from 0, when everything below still is as the forward pass left it.
    errors = [-judged.error]
    reached = (*up.inputs[1:], up.output)
    for k in reversed(range(1, len(reached))):
        moved = reached[k - 1] + _below(network, k, up.inputs[k], errors[-1])
        errors.append(moved - network.model.layers[k - 1].activation(up.pre[k - 1]))
    return Settled(up.inputs, _signals(network, up.pre, errors[::-1]))


def _fixed(rule: PredictiveCoding, network: Network, up: ForwardPass, judged: Judged) -> Settled:
    # At rest e_k = J_(k+1)' e_(k+1), with the derivatives of the forward pass: solved from the top down.
    errors = [-judged.error]
    for k in reversed(range(1, len(up.inputs))):
        errors.append(_below(network, k, up.inputs[k], errors[-1]))
    return Settled(up.inputs, _signals(network, up.pre, errors[::-1]))


def _clamped(rule: PredictiveCoding, network: Network, up: ForwardPass, judged: Judged) -> Settled:
    target = up.output - judged.error

    def energy(hidden: tuple[Array, ...]) -> Array:
        return _energy(_errors_at(network, (*hidden, target)))

    hidden, residual = _descend(rule, energy, up.inputs[1:])
    return _at(network, (*hidden, target), None, residual, _steps(rule))


def _errors(rule: PredictiveCoding, network: Network, up: ForwardPass, judged: Judged) -> Settled:
    def activities(errors: tuple[Array, ...]) -> tuple[Array, ...]:
        h, reached = network.x, []
        for k, error in enumerate(errors):
            h = _step_of(network, k, h) + error
            reached.append(h)
        return tuple(reached)

    def energy(errors: tuple[Array, ...]) -> Array:
        return _energy(errors) + jnp.sum(network.losses(activities(errors)[-1]))

    start = tuple(map(jnp.zeros_like, (*up.inputs[1:], up.output)))
    errors, residual = _descend(rule, energy, start)
    return _at(network, activities(errors), None, residual, _steps(rule))


def _lagrangian(
    rule: PredictiveCoding, network: Network, up: ForwardPass, judged: Judged
) -> Settled:
    def energy(reached: Any, multipliers: Any) -> Array:
        errors = _errors_at(network, reached)
        held = zip(multipliers, errors, strict=True)
        pulled = sum((jnp.sum(m * e) for m, e in held), jnp.zeros(()))
        return _energy(errors) + pulled + jnp.sum(network.losses(reached[-1]))

    def step(carry: Any, _: None) -> tuple[Any, None]:
        reached, multipliers = carry
        reached = _moved(rule, reached, jax.grad(energy)(reached, multipliers))
        errors = _errors_at(network, reached)
        grow = lambda m, e: (m + rule.step_size * e).astype(m.dtype)
        return (reached, tuple(map(grow, multipliers, errors))), None

    reached = (*up.inputs[1:], up.output)
    start = (reached, tuple(map(jnp.zeros_like, reached)))
    steps = _steps(rule)
    end, _ = jax.lax.scan(step, start, length=steps)
    further, _ = step(end, None)
    # Over the step size: activities and multipliers can circle each other for ever, and by small steps each
    # sweep changes little, so that they would count as settled.
    change = passes.minus(further, end)
    residual = passes.relative(change, passes.minus(end, start)) / rule.step_size
    return _at(network, *end, residual, steps)


def _at(network: Network, reached: Any, multipliers: Any, residual: Array, steps: int) -> Settled:
    """What the parameters learn from where the activities ended."""
    inputs = (network.x, *reached[:-1])
    layers = zip(network.model.layers, network.params, inputs, strict=True)
    pre = [layer.pre(own, h) for layer, own, h in layers]
    errors = _errors_at(network, reached)
    if multipliers is not None:
        errors = tuple(map(jnp.add, errors, multipliers))
    return Settled(inputs, _signals(network, pre, errors), residual, steps)


def _errors_at(network: Network, reached: Any) -> tuple[Array, ...]:
    inputs = (network.x, *reached[:-1])
    return tuple(h - _step_of(network, k, inputs[k]) for k, h in enumerate(reached))


def _energy(errors: Any) -> Array:
    return sum((jnp.sum(e**2) / 2 for e in errors), jnp.zeros(()))


def _descend(
    rule: PredictiveCoding, energy: Callable[[Any], Array], start: Any
) -> tuple[Any, Array]:
    """(where gradient descent ends, the residual)."""

    def step(state: Any, _: None) -> tuple[Any, None]:
        return _moved(rule, state, jax.grad(energy)(state)), None

    end, _ = jax.lax.scan(step, start, length=_steps(rule))
    further, _ = step(end, None)
    return end, passes.relative(passes.minus(further, end), passes.minus(end, start))


def _moved(rule: PredictiveCoding, state: Any, slope: Any) -> Any:
    return tree.add_scaled(state, -rule.step_size, slope)


def _steps(rule: PredictiveCoding) -> int:
    return DESCENT_STEPS if rule.steps is None else rule.steps
