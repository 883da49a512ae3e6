"""Energies of a network of layers: the same maps and activations, three ways to settle.

With `s_0 = x`, and `J'` the pullback of the maps of a layer at its input:

| energy | state | at rest |
|---|---|---|
| `hopfield` | potentials `u_k`, `s_k = act(u_k)` | `u_k = maps_k(s_(k-1)) + J_(k+1)' s_(k+1)`: layers drive each other, both ways |
| `predictive_coding` | activities `h_k` | `h_k = act(a_k) + J_(k+1)' e_(k+1)`: each layer predicts the next |
| `lifted` | potentials | `u_k = a_k + J_(k+1)' (s_(k+1) - act(a_(k+1)))`: the errors in the activations |

The last two rest in the forward pass; a Hopfield network computes another function than the forward pass.
A cost of the output enters the last layer as `- dcost/ds_L`. A sweep puts each layer where its neighbours
want it: all at once (`synchronous`), or every other layer in turn (`asynchronous`), which settles in a
fraction of the sweeps and where the other swings between two states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit.derive.pullback import pull
from toolkit.energy.energy_model import Cost, EnergyModel, slope
from toolkit.energy.integral import integral
from toolkit.settings import require
from toolkit.types import Tree

Dynamics = Literal["asynchronous", "synchronous"]
States = tuple[Array, ...]  # one a layer, [B, ...]


def hopfield(model: Any, dynamics: Dynamics = "asynchronous", readout: bool = False) -> EnergyModel:
    """A layered Hopfield network, `E = sum_k <u_k - maps_k(s_(k-1)), s_k> - R(u_k)` with `R' = act`.

    The potentials start from 0.

    Args:
      model: of `tk.credit.layered`.
      dynamics: `asynchronous` or `synchronous`.
      readout: the last layer is computed from the settled others and does not act back on them. So any
        loss of any output can be used, cross-entropy of logits among them; the loss then reaches the
        last layer's parameters by its own derivative.

    Raises:
      ValueError: `model` has no layers; another word; from `update`, a `clamp` where the last activation is
        not the identity, or where the last layer is a readout.

    Source: Hopfield 1984; Laborieux et al. 2021 (readout). Unlike (Scellier & Bengio 2017, equation 1): the
    quadratic term `u^2 / 2` is Hopfield's `u s - R(u)`, whose derivative by `s` is `u`. So the network rests
    where a sweep changes nothing, for units that saturate too, and no differential equation is integrated.
    """
    layers = _layers(model, dynamics)
    settling = layers[:-1] if readout else layers
    if not settling:
        raise ValueError("`readout` must leave a layer that settles: got a model of one layer.")

    def rest(params: Tree, x: Array) -> States:
        return tuple(map(jnp.zeros_like, _forward(settling, params, x)))

    def output(params: Tree, x: Array, state: States) -> Array:
        top = settling[-1].activation(state[-1])
        return layers[-1].activation(layers[-1].pre(params[-1], top)) if readout else top

    def energy(params: Tree, x: Array, state: States) -> Array:
        below, total = x, jnp.zeros(())
        for layer, own, u in zip(settling, params, state, strict=False):
            s = layer.activation(u)
            drive = (u - layer.pre(own, below)) * s
            total = total + _per_example(drive - integral(layer.activation, u))
            below = s
        return total

    def update(
        params: Tree, x: Array, state: States, cost: Cost | None = None, clamp: Array | None = None
    ) -> States:
        if readout and clamp is not None:
            raise ValueError(
                "`clamp` needs an output that settles: got a Hopfield energy with readout."
            )

        def visit(k: int, state: States) -> Array:
            rates = [x, *(layer.activation(u) for layer, u in zip(settling, state, strict=True))]
            drive = settling[k].pre(params[k], rates[k])
            if k + 1 < len(settling):
                above = settling[k + 1]
                return drive + pull(
                    lambda h: above.pre(params[k + 1], h), rates[k + 1], rates[k + 2]
                )
            if readout:
                last = lambda s: layers[-1].activation(layers[-1].pre(params[-1], s))
                error = slope(cost, last(rates[-1]))
                return drive - pull(last, rates[-1], error)
            return drive - slope(cost, rates[-1])

        return _sweep(dynamics, visit, state, _held(settling[-1], clamp), upwards=True)

    return EnergyModel(model.init, rest, energy, output, update)


def predictive_coding(model: Any, dynamics: Dynamics = "asynchronous") -> EnergyModel:
    """Predictive coding, `E = sum_k norm(e_k)^2 / 2` with `e_k = h_k - act(maps_k(h_(k-1)))`.

    The activities start from the forward pass, where the energy is 0. A sweep sets
    `h_k <- act(a_k) + J' e_(k+1)`, and for relu `h_k <- relu(a_k + J' e_(k+1))`, which keeps activities
    nonnegative. It looks for a stationary point: under a nudge the energy may rise.

    Args:
      model: of `tk.credit.layered`.
      dynamics: `asynchronous`; `synchronous` may diverge.

    Raises:
      ValueError: `model` has no layers; another word.

    Source: Whittington & Bogacz 2017; the sweep: Kerjan, Høier & Scellier 2026.
    """
    layers = _layers(model, dynamics)

    def rest(params: Tree, x: Array) -> States:
        potentials = _forward(layers, params, x)
        return tuple(layer.activation(a) for layer, a in zip(layers, potentials, strict=True))

    def energy(params: Tree, x: Array, state: States) -> Array:
        below, total = x, jnp.zeros(())
        for layer, own, h in zip(layers, params, state, strict=True):
            total = total + _per_example((h - layer.activation(layer.pre(own, below))) ** 2) / 2
            below = h
        return total

    def update(
        params: Tree, x: Array, state: States, cost: Cost | None = None, clamp: Array | None = None
    ) -> States:
        def visit(k: int, state: States) -> Array:
            layer, reached = layers[k], (x, *state)
            a = layer.pre(params[k], reached[k])
            if k + 1 < len(layers):
                above = layers[k + 1]
                predict = lambda h: above.activation(above.pre(params[k + 1], h))
                predicted, pullback = jax.vjp(predict, state[k])
                (signal,) = pullback(state[k + 1] - predicted)
            else:
                signal = -slope(cost, state[k])
            if layer.activation is jax.nn.relu:
                return layer.activation(a + signal)
            return layer.activation(a) + signal

        return _sweep(dynamics, visit, state, clamp, upwards=False)

    return EnergyModel(model.init, rest, energy, _last(lambda h: h), update)


def lifted(model: Any, dynamics: Dynamics = "asynchronous") -> EnergyModel:
    """A lifted network, `E = sum_k R(a_k) - R(u_k) + <u_k - a_k, s_k>` with `R' = act`.

    Each term is the Bregman divergence between what a layer is and what it is told to be: 0 in the forward
    pass, where the potentials start.

    Args:
      model: of `tk.credit.layered`.
      dynamics: `asynchronous`; `synchronous` may diverge.

    Raises:
      ValueError: `model` has no layers; another word; from `update`, a `clamp` where the last activation is
        not the identity.

    Source: Li, Fang & Lin 2020 (lifted proximal operator machines); Høier & Zach 2024, section 3.
    """
    layers = _layers(model, dynamics)

    def rest(params: Tree, x: Array) -> States:
        return _forward(layers, params, x)

    def energy(params: Tree, x: Array, state: States) -> Array:
        below, total = x, jnp.zeros(())
        for layer, own, u in zip(layers, params, state, strict=True):
            a, s = layer.pre(own, below), layer.activation(u)
            divergence = integral(layer.activation, a) - integral(layer.activation, u) + (u - a) * s
            total, below = total + _per_example(divergence), s
        return total

    def update(
        params: Tree, x: Array, state: States, cost: Cost | None = None, clamp: Array | None = None
    ) -> States:
        def visit(k: int, state: States) -> Array:
            rates = [x, *(layer.activation(u) for layer, u in zip(layers, state, strict=True))]
            a = layers[k].pre(params[k], rates[k])
            if k + 1 == len(layers):
                return a - slope(cost, rates[-1])
            above = layers[k + 1]
            told, pullback = jax.vjp(lambda h: above.pre(params[k + 1], h), rates[k + 1])
            (signal,) = pullback(rates[k + 2] - above.activation(told))
            return a + signal

        return _sweep(dynamics, visit, state, _held(layers[-1], clamp), upwards=False)

    return EnergyModel(model.init, rest, energy, _last(layers[-1].activation), update)


def _layers(model: Any, dynamics: str) -> tuple[Any, ...]:
    require("dynamics", dynamics, Dynamics)
    if not hasattr(model, "layers"):
        raise ValueError(
            f"`model` must be layers, as made by tk.credit.layered: got {type(model).__name__}."
        )
    return model.layers


def _forward(layers: Any, params: Tree, x: Array) -> States:
    """The potentials of a forward pass."""
    potentials, h = [], x
    for layer, own in zip(layers, params, strict=False):
        potentials.append(layer.pre(own, h))
        h = layer.activation(potentials[-1])
    return tuple(potentials)


def _sweep(
    dynamics: Dynamics,
    visit: Callable[[int, States], Array],
    state: States,
    clamp: Array | None,
    upwards: bool,
) -> States:
    """One sweep; `visit(k, state)` is the new state of a layer, and `clamp` what the last is held at.

    Every other layer in turn, the half that holds the first layer first where signals start at the input
    (`upwards`), and the half that holds the last one where they start at the output.
    """
    count = len(state)
    first = 0 if upwards else (count - 1) % 2
    halves = [range(first, count, 2), range(1 - first, count, 2)]
    groups = [range(count)] if dynamics == "synchronous" else halves
    if clamp is not None:
        state = (*state[:-1], clamp.astype(state[-1].dtype))
    for group in groups:
        free = [k for k in group if clamp is None or k < count - 1]
        new = {k: visit(k, state) for k in free}
        state = tuple(new.get(k, old) for k, old in enumerate(state))
    return state


def _held(last: Any, clamp: Array | None) -> Array | None:
    """The potential at which the last layer has the output `clamp`; known for the identity alone."""
    if clamp is None:
        return None
    probe = np.linspace(-3, 3, 7)
    with jax.ensure_compile_time_eval():
        is_identity = np.array_equal(last.activation(jnp.asarray(probe)), jnp.asarray(probe))
    if not is_identity:
        raise ValueError(
            "`model` must end with the activation tk.credit.identity where its output is held at a "
            f"target: got {getattr(last.activation, '__name__', type(last.activation).__name__)}."
        )
    return clamp


def _last(activation: Callable[[Array], Array]) -> Callable[[Tree, Array, States], Array]:
    return lambda params, x, state: activation(state[-1])


def _per_example(terms: Array) -> Array:
    """The sum over all axes but the first, in float32 at least."""
    wide = jnp.promote_types(terms.dtype, jnp.float32)
    return jnp.sum(terms, axis=tuple(range(1, terms.ndim)), dtype=wide)
