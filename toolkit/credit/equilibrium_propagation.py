"""`EquilibriumPropagation`: the network settles, is nudged at its output, and settles again.

With `F_b = E + b loss` and `s_b` the state where sweeps of `F_b` settle, started from `s_0`,

    d loss(s_0) / dparams = d/db (dF_b/dparams at s_b)  at b = 0,

each example nudged by its own loss. It holds at every stationary state, minimum or not. The derivative in
`b` is a finite difference over nudges `beta w_k`:

    one_sided, random_sign   w = 1, or a random sign      dF at it minus dF at the free state
    centered                 w = 1, -1                    half of the difference
    holomorphic              w_k = exp(2 pi i k / N)      Re mean_k conj(w_k) dF
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jax import Array

from toolkit import energy as energies
from toolkit import tree
from toolkit.credit import passes
from toolkit.credit.passes import Batch, Info, Learner, Loss
from toolkit.energy.energy_model import Cost, EnergyModel, settle
from toolkit.jaxprs.analytic import unanalytic
from toolkit.settings import Natural, Positive, settings
from toolkit.types import Tree
from toolkit.vocabulary.kinds import Given

EnergyMaker = Annotated[
    Any,
    Given(
        "a maker of energies, such as tk.energy.hopfield, or a callable (model) -> EnergyModel",
        fits=lambda value: callable(value) and not isinstance(value, type),
        names="toolkit.energy.networks",
    ),
]
Scheme = Literal["one_sided", "centered", "random_sign", "holomorphic"]


class Nudges(NamedTuple):
    """The nudges of a scheme, in units of beta, and the weights of `dF/dparams` there; `K` nudges."""

    at: Array  # [K]
    weights: Array  # [K]
    free: Array  # [] weight of `dF/dparams` at the free state


@settings("equilibrium_propagation")
class EquilibriumPropagation:
    """The slope of `dF/dparams` in the nudge, from states where the network settles.

    | scheme | error | settles |
    |---|---|---|
    | `one_sided`, `random_sign` (a coin from the key) | O(beta) | twice |
    | `centered` | O(beta^2) | three times |
    | `holomorphic` | O(beta^num_points) | 1 + num_points times, in complex numbers |

    With `synchronous` sweeps of a Hopfield energy, `k` nudged sweeps give the gradient through the last `k`
    sweeps, as beta -> 0: at every step, not in the end alone.

    Args:
      energy: a maker such as `tk.energy.hopfield` or `partial(tk.energy.hopfield, readout=True)`, called with
        the model; not used where the model is an energy already.
      beta: size of the nudge, positive. In float32 below 1e-3 the difference drowns in rounding.
      scheme: see above.
      free_steps, nudged_steps: sweeps. 0 free ones where the energy rests at its start.
      num_points: nudges on the circle (`holomorphic`).
      nudge: `"loss"`, or `"error"`: the nudge is linear, by the derivative of the loss at the free output,
        held fixed. For losses without a complex value (log-sum-exp) under `holomorphic`.

    Raises:
      ValueError: `beta` not positive, an unknown word; `holomorphic` on a model or loss that has no
        complex derivative (relu, max-pooling, what clips or compares); an energy of layers on a model without.

    State: `()`. `info.residual` is the largest of what one more free and one more nudged sweep would change,
    and of what rounding leaves of the nudge.

    Cost: `free_steps + K nudged_steps + K + 1` sweeps for K nudges, a sweep about a forward and a reverse
    pass; memory of K states, however many sweeps.

    Source: Scellier & Bengio 2017, theorem 1; Ernoult et al. 2019 (step by step); Laborieux et al. 2021
    (centered); Laborieux & Zenke 2022 (holomorphic).
    """

    energy: EnergyMaker = energies.hopfield
    beta: Positive = 0.1
    scheme: Scheme = "centered"
    free_steps: Natural = 50
    nudged_steps: Natural = 20
    num_points: Annotated[int, Ge(2)] = 4
    nudge: Literal["loss", "error"] = "loss"

    def __call__(self, model: Any, loss: Loss) -> Learner:
        """`(init, gradients)` of an energy, or of the energy of a layered model, under a loss."""
        energy = energy_of(self.energy, model)

        def gradients(params: Tree, state: Any, batch: Batch, key: Array) -> tuple[Tree, Any, Info]:
            x, target = batch
            free = settle(energy, params, x, energy.rest(params, x), self.free_steps)
            output = energy.output(params, x, free)
            judged = passes.judge(loss, output, target)
            cost = _cost(self.nudge, loss, target, judged.error)
            nudges = _nudges(self, key, judged.losses.dtype)
            start = free
            if self.scheme == "holomorphic":
                start = _complex(free)
                _require_analytic(energy, params, x, cost, start)
            relax = partial(_nudged, self, energy, params, x, cost, start)
            nudged = jax.vmap(relax)(self.beta * nudges.at)
            gradient = _slope(self, energy, params, x, cost, nudges, nudged.state, free)
            residual = _residual(energy, params, x, free, nudged, judged.error)
            sweeps = self.free_steps + len(nudges.at) * self.nudged_steps
            return gradient, state, passes.said(judged.mean, gradient, residual, sweeps)

        return passes.learner(passes.no_state, gradients)

    def predict(self, model: Any) -> Callable[[Tree, Array], Array]:
        """`(params, x) -> output`, settled by `free_steps` sweeps."""
        energy = energy_of(self.energy, model)

        def predict(params: Tree, x: Array) -> Array:
            free = settle(energy, params, x, energy.rest(params, x), self.free_steps)
            return energy.output(params, x, free)

        return predict


def energy_of(maker: Callable[[Any], EnergyModel], model: Any) -> EnergyModel:
    """The model as an energy."""
    return model if isinstance(model, EnergyModel) else maker(model)


def _nudges(rule: EquilibriumPropagation, key: Array, dtype: Any) -> Nudges:
    one = jnp.ones(1, dtype)
    if rule.scheme == "holomorphic":
        circle = np.exp(2j * np.pi * np.arange(rule.num_points) / rule.num_points)
        kind = jnp.promote_types(dtype, jnp.complex64)
        return Nudges(
            jnp.asarray(circle, kind),
            jnp.asarray(circle.conj() / rule.num_points, kind),
            jnp.zeros((), dtype),
        )
    if rule.scheme == "centered":
        signs = jnp.asarray([1.0, -1.0], dtype)
        return Nudges(signs, signs / 2, jnp.zeros((), dtype))
    if rule.scheme == "one_sided":
        return Nudges(one, one, -one[0])
    coin = jax.random.rademacher(key, (1,), dtype)
    return Nudges(coin, coin, -coin[0])


def _cost(nudge: str, loss: Loss, target: Any, error: Array) -> Cost:
    """`output -> [B]`, what a nudge of strength 1 adds to the energy."""
    if nudge == "loss":
        return lambda output: loss(output, target)
    axes = tuple(range(1, error.ndim))
    return lambda output: jnp.sum(error * output, axis=axes)


class NudgedState(NamedTuple):
    """A state that settled under a nudge, or all `K` of them along a leading axis."""

    state: Tree
    left: Array  # [] norm of what one more sweep would change
    moved: Array  # [] norm of the way from the free state


def _nudged(
    rule: EquilibriumPropagation,
    energy: EnergyModel,
    params: Tree,
    x: Array,
    cost: Cost,
    free: Tree,
    b: Array,
) -> NudgedState:
    """Where the network settles under a nudge of strength `b`, from the free state."""

    def pulled(output: Array) -> Array:
        return b * cost(output)

    state = settle(energy, params, x, free, rule.nudged_steps, cost=pulled)
    further = energy.update(params, x, state, cost=pulled)
    left, moved = passes.minus(further, state), passes.minus(state, free)
    return NudgedState(state, tree.norm(left), tree.norm(moved))


def _require_analytic(energy: EnergyModel, params: Tree, x: Array, cost: Cost, state: Tree) -> None:
    """Refuse a network or a cost that has no complex derivative; `state` is complex."""

    def sweep(state: Tree) -> Any:
        further = energy.update(params, x, state, cost=cost)
        return further, energy.energy(params, x, state), cost(energy.output(params, x, state))

    try:
        found = unanalytic(jax.make_jaxpr(sweep)(state))
        said = f"take {', '.join(found)} of complex numbers" if found else ""
        cause = None
    except (TypeError, ValueError) as error:
        said, cause = f"raise {str(error).splitlines()[0]!r}", error
    if said:
        raise ValueError(
            '`scheme` "holomorphic" needs activations, maps and a loss that are complex-analytic (no relu, '
            f"clip, abs, max-pooling, log-sum-exp): at complex states they {said}; use "
            'scheme="centered", or nudge="error" where the loss alone is to blame.'
        ) from cause


def _slope(
    rule: EquilibriumPropagation,
    energy: EnergyModel,
    params: Tree,
    x: Array,
    cost: Cost,
    nudges: Nudges,
    nudged: Tree,
    free: Tree,
) -> Tree:
    """The derivative in `b` of `dF_b/dparams`, the mean over the examples."""

    def weighed(params: Tree) -> Array:
        def pulled_energy(state: Tree, at: Array) -> Array:
            costs = cost(energy.output(params, x, state))
            return jnp.sum(energy.energy(params, x, state) + rule.beta * at * costs)

        terms = nudges.weights * jax.vmap(pulled_energy)(nudged, nudges.at)
        total = jnp.sum(jnp.real(terms))
        if rule.scheme in ("one_sided", "random_sign"):
            total += nudges.free * jnp.sum(energy.energy(params, x, free))
        return total / (rule.beta * len(x))

    return jax.grad(weighed)(params)


def _residual(
    energy: EnergyModel, params: Tree, x: Array, free: Tree, nudged: NudgedState, error: Array
) -> Array:
    """What one more free or nudged sweep would change, or rounding, over how far the nudges moved the state."""
    left = tree.norm(passes.minus(energy.update(params, x, free), free))
    worst, moved = jnp.maximum(left, jnp.max(nudged.left)), jnp.min(nudged.moved)
    # Where nothing pulls nothing moves, and the free state tells by itself whether it is settled.
    residual = jnp.where(worst == 0, 0, worst / jnp.where(moved == 0, 1, moved))
    return passes.with_rounding(residual, free, moved, error)


def _complex(state: Tree) -> Tree:
    return jax.tree.map(lambda s: s.astype(jnp.promote_types(s.dtype, jnp.complex64)), state)
