"""`GradientDescent`: with momentum, and with schedules that may depend on theta."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.settings import Fraction, Natural, NonNegative, Tolerance, settings
from toolkit.solver.requirements import PerStep, require_broadcast, require_kind, require_schedule
from toolkit.solver.schedules import at_step, known_schedule
from toolkit.types import Descent, Evaluation, InnerProblem, Method, Tree


class DescentState(NamedTuple):
    """Iterate and velocity; the velocity is None without momentum."""

    y: Tree
    velocity: Tree


@settings("gradient_descent")
class GradientDescent:
    """`v <- momentum * v - grad; y <- y + step_size * v`, from `v = 0`.

    Args:
      step_size: a number, an array `[]` or `[num_steps]`, or a callable `(theta, step) -> array`.
      num_steps: the number of steps, or its limit when `tol` is given.
      momentum: as `step_size`; the number 0 keeps no velocity.
      tol: stop when the 2-norm of the gradient is at most this (absolute); None never stops early.

    Raises:
      ValueError: the solve is no argmin, a schedule has another length than `num_steps`, or a value
        of it does not broadcast to every leaf of `y`.

    Differentiation: step sizes and momenta are hyperparameters under the rules that follow the
    steps (unroll, truncated, one-step); under the implicit rule their derivative is 0 by theory.

    Cost: one gradient a step.
    """

    step_size: NonNegative | PerStep
    num_steps: Natural
    momentum: Fraction | PerStep = 0.0
    tol: Tolerance | None = None

    def __post_init__(self) -> None:
        require_schedule("step_size", self.step_size, self.num_steps)
        require_schedule("momentum", self.momentum, self.num_steps)

    def bind(self, problem: InnerProblem) -> Method:
        """The steps on `problem`, an argmin."""
        require_kind(self, problem.kind, ("argmin",), "tk.solver.Newton or FixedPointIteration")
        # Only the number 0 saves the velocity: an array may be traced, and differentiated at 0.
        heavy_ball = not (isinstance(self.momentum, (int, float)) and self.momentum == 0)

        def init(y0: Tree, theta: Tree) -> DescentState:
            return DescentState(y0, jax.tree.map(jnp.zeros_like, y0) if heavy_ball else None)

        def evaluate(state: DescentState, theta: Tree, x: Tree) -> Evaluation:
            gradient, beside = problem.look(state.y, theta, x)
            return Evaluation(gradient, gradient, beside)

        def schedule(theta: Tree, t: Array) -> tuple[Tree, Tree]:
            user_theta = problem.user_theta(theta)
            step_size = at_step("step_size", self.step_size, user_theta, t)
            return step_size, at_step("momentum", self.momentum, user_theta, t)

        def update(
            state: DescentState, gradient: Tree, theta: Tree, t: Array, x: Tree
        ) -> DescentState:
            step_size, momentum = schedule(theta, t)
            require_broadcast("step_size", step_size, state.y)
            require_broadcast("momentum", momentum, state.y)
            if not heavy_ball:
                return DescentState(tree.add_scaled(state.y, -step_size, gradient), None)
            velocity = jax.tree.map(
                lambda v, g: (momentum * v - g).astype(v.dtype), state.velocity, gradient
            )
            return DescentState(tree.add_scaled(state.y, step_size, velocity), velocity)

        descent = Descent(schedule, known_schedule(self.momentum, self.num_steps))
        return Method(
            init,
            evaluate,
            update,
            lambda s: s.y,
            self.num_steps,
            self.tol,
            descent,
            cheap_update=True,
        )
