"""`CoupledLearning` and `ContrastiveLearning`: the network settles free, and with its output held.

    gradient = (dE/dparams at the held state - dE/dparams at the free state) / beta,
    the output held at  (1 - beta) free output + beta target

Contrastive learning holds the output at the target itself, `beta = 1`. Neither is the gradient of a
loss; as `beta -> 0` coupled learning is that of the squared error weighed by how stiff the output is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import energy as energies
from toolkit import tree
from toolkit.credit import passes
from toolkit.credit.equilibrium_propagation import EnergyMaker, EquilibriumPropagation, energy_of
from toolkit.credit.passes import Batch, Info, Learner, Loss
from toolkit.energy.energy_model import EnergyModel, settle
from toolkit.settings import Natural, Positive, settings
from toolkit.types import Tree


@settings("coupled_learning")
class CoupledLearning:
    """The output held a little nearer to the target than where it settles by itself.

    Args:
      energy: a maker such as `tk.energy.hopfield`, called with the model; not used where the model is an
        energy already.
      beta: how far the output is moved, of the way to the target.
      free_steps, clamped_steps: sweeps.

    Raises:
      ValueError: the last activation of the model is not `identity` (an energy of potentials, such as
        Hopfield's, could not hold the output at a target then); the target has not the shape of the
        output; `beta` is not positive.

    State: `()`. `info.residual` as for `EquilibriumPropagation`.

    Cost: `free_steps + clamped_steps + 2` sweeps.

    Source: Stern, Hexner, Rocks & Liu 2021, equations 2 and 5.
    """

    energy: EnergyMaker = energies.hopfield
    beta: Positive = 0.1
    free_steps: Natural = 50
    clamped_steps: Natural = 20

    def __call__(self, model: Any, loss: Loss) -> Learner:
        """`(init, gradients)` of an energy under a loss, which is reported and takes no part in learning."""
        energy = energy_of(self.energy, model)
        steps = (self.free_steps, self.clamped_steps)
        return passes.learner(passes.no_state, _contrast(energy, loss, self.beta, steps))

    def predict(self, model: Any) -> Callable[[Tree, Array], Array]:
        """`(params, x) -> output`, settled by `free_steps` sweeps."""
        return EquilibriumPropagation(self.energy, free_steps=self.free_steps).predict(model)


@settings("contrastive_learning")
class ContrastiveLearning:
    """The output held at the target: `CoupledLearning` with `beta = 1`.

    Args, errors and cost: as there.

    Source: Movellan 1991, Contrastive Hebbian Learning in the Continuous Hopfield Model.
    """

    energy: EnergyMaker = energies.hopfield
    free_steps: Natural = 50
    clamped_steps: Natural = 20

    def __call__(self, model: Any, loss: Loss) -> Learner:
        """`(init, gradients)` of an energy under a loss, which is reported and takes no part in learning."""
        energy = energy_of(self.energy, model)
        steps = (self.free_steps, self.clamped_steps)
        return passes.learner(passes.no_state, _contrast(energy, loss, 1.0, steps))

    def predict(self, model: Any) -> Callable[[Tree, Array], Array]:
        """`(params, x) -> output`, settled by `free_steps` sweeps."""
        return EquilibriumPropagation(self.energy, free_steps=self.free_steps).predict(model)


def _contrast(energy: EnergyModel, loss: Loss, beta: Any, steps: tuple[int, int]) -> Callable:
    free_steps, clamped_steps = steps

    def gradients(params: Tree, state: Any, batch: Batch, key: Array) -> tuple[Tree, Any, Info]:
        x, target = batch
        free = settle(energy, params, x, energy.rest(params, x), free_steps)
        output = energy.output(params, x, free)
        judged = passes.judge(loss, output, target)
        clamp = _towards(output, target, beta)
        held = settle(energy, params, x, free, clamped_steps, clamp=clamp)

        def difference(params: Tree) -> Array:
            at_both = energy.energy(params, x, held) - energy.energy(params, x, free)
            return jnp.mean(at_both) / beta

        gradient = jax.grad(difference)(params)
        further = energy.update(params, x, held, clamp=clamp)
        left = jnp.maximum(
            tree.norm(passes.minus(further, held)),
            tree.norm(passes.minus(energy.update(params, x, free), free)),
        )
        moved = tree.norm(passes.minus(held, free))
        residual = passes.relative(left, moved)
        residual = passes.with_rounding(residual, free, moved, jnp.asarray(target) - output)
        return gradient, state, passes.said(judged.mean, gradient, residual, sum(steps))

    return gradients


def _towards(output: Array, target: Any, beta: Any) -> Array:
    shape = jnp.shape(target)
    if shape != output.shape:
        raise ValueError(
            f"`target` must have the shape of the output, {output.shape}, at which it is held: got "
            f"{shape}; make labels one-hot."
        )
    return (1 - beta) * output + beta * jnp.asarray(target, output.dtype)
