"""`GradientDescent`: with momentum, and with schedules that may depend on theta."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.settings import Fraction, Natural, NonNegative, Tolerance, settings
from toolkit.solver.accelerated import accelerated_steps
from toolkit.solver.requirements import PerStep, require_broadcast, require_kind, require_schedule
from toolkit.solver.schedules import at_step, known_schedule
from toolkit.solver.searched import Splitting, searched_steps
from toolkit.types import Descent, Evaluation, InnerProblem, Method, Tree


class DescentState(NamedTuple):
    """Iterate and velocity; the velocity is None without momentum."""

    y: Tree
    velocity: Tree


@settings("gradient_descent")
class GradientDescent:
    """`v <- momentum * v - grad; y <- y + step_size * v`, from `v = 0`.

    Args:
      step_size: a number, an array `[]` or `[num_steps]`, a callable `(theta, step) -> array`, or None:
        found by backtracking, 1 times a power of two. A step is accepted where the value falls by at least
        `step_size * |grad|^2 / 2`. The next search starts from the accepted size, or from twice of it.
      num_steps: the number of steps, or its limit when `tol` is given.
      momentum: as `step_size`; the number 0 keeps no velocity.
      tol: stop when the 2-norm of the gradient is at most this (absolute); None never stops early.
      accelerated: Nesterov's momentum, `(t - 1) / t'` with `t' = (1 + sqrt(1 + 4 t^2)) / 2`: on a convex
        function of condition number k some sqrt(k) steps where plain descent takes k.
      restart: whether that momentum starts anew where it points uphill. With it the method converges linearly
        on strongly convex functions.

    Raises:
      ValueError: the solve is no argmin, a schedule has another length than `num_steps`, or a value
        of it does not broadcast to every leaf of `y`; a momentum beside `accelerated` or beside
        `step_size=None`; a complex function beside `step_size=None` (`Nudged(scheme="holomorphic")`).

    Differentiation: step sizes and momenta are hyperparameters under the rules that follow the
    steps (unroll, truncated, one-step); under the implicit rule their derivative is 0 by theory. Those that
    backtracking has found are constants, and so is the weight t; a reverse pass searches again. `Reversible`
    refuses both `step_size=None` and `accelerated`.

    Cost: one gradient a step. With `step_size=None` one value and gradient a trial, usually one or two a step,
    of which the accepted one serves the next step; with `accelerated` besides, one value and gradient a step
    and one value a trial.

    Source: Beck & Teboulle 2009, section 4; restart: O'Donoghue & Candes 2015, section 3.2.
    """

    step_size: NonNegative | PerStep | None
    num_steps: Natural
    momentum: Fraction | PerStep = 0.0
    tol: Tolerance | None = None
    accelerated: bool = False
    restart: bool = True

    def __post_init__(self) -> None:
        require_schedule("step_size", self.step_size, self.num_steps)
        require_schedule("momentum", self.momentum, self.num_steps)
        if not self._heavy_ball:
            return
        if self.accelerated:
            raise ValueError(
                "`accelerated` must be False with `momentum`, of which it is another kind: got True; "
                "leave `momentum` out."
            )
        if self.step_size is None:
            number = isinstance(self.momentum, (int, float))
            raise ValueError(
                "`momentum` must be 0 with step_size=None, whose line search follows the gradient: got "
                f"{self.momentum if number else tree.describe(self.momentum)}; use accelerated=True, or give a "
                "step size."
            )

    @property
    def _heavy_ball(self) -> bool:
        # Only the number 0 saves the velocity: an array may be traced, and differentiated at 0.
        return not (isinstance(self.momentum, (int, float)) and self.momentum == 0)

    def bind(self, problem: InnerProblem) -> Method:
        """The steps on `problem`, an argmin."""
        require_kind(self, problem.kind, ("argmin",), "tk.solver.Newton or FixedPointIteration")
        split, heavy_ball = Splitting(problem, None, self.num_steps, self.tol), self._heavy_ball
        if self.accelerated:
            return accelerated_steps(self, split, self.step_size, self.restart)
        if self.step_size is None:
            return searched_steps(self, split)

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
