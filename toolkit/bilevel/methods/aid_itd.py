"""The plain double loop: a solve, its hypergradient by any rule, a step of theta."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from jax import Array

from toolkit.adjoint import Implicit, Unroll
from toolkit.bilevel.parts.method_settings import TwoOptimizers
from toolkit.bilevel.parts.movers import StepSize, at
from toolkit.bilevel.parts.oracles import draw, zeros_like
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem, info
from toolkit.bilevel.parts.state import State, algorithm, moves_of, split_key
from toolkit.leaves.containers import unpacked
from toolkit.linear import CG
from toolkit.settings import Count, require, settings
from toolkit.solve.hypergradient import hypergradient
from toolkit.solve.maps import argmin
from toolkit.solver import GradientDescent, Optax
from toolkit.types import LinearSolver, Tree
from toolkit.vocabulary.roles import Adjoint


class StepStart(NamedTuple):
    """Where the solves of a step start."""

    y0: Tree  # the first y, from which every step starts; None with a warm start
    v: Tree  # with a warm start of the implicit rule its last linear solution, else None


@settings("double_loop")
class DoubleLoop(TwoOptimizers):
    """K inner steps, the hypergradient of their end by `adjoint`, one outer step.

    With one batch B of the inner and B' of the outer data for the whole step:

        y+ = y after K times  y <- y - a grad_y g_B(y, theta)
        theta <- theta - c d/dtheta f_B'(y+(theta), theta),   d y+/dtheta by the adjoint

    Args:
      inner_step_size: a; a number or an optax schedule of the outer step.
      outer_step_size: c; likewise.
      batch_size: examples a batch, drawn with replacement; None takes all. One batch serves all K steps
        and the linear system, which must not change while it is solved. With many steps y goes to the
        minimiser of this batch, not of all data, so that small batches bias the hypergradient.
      inner_steps: K.
      adjoint: one of `tk.adjoint`; `Implicit()` when not given.
      warm_start: whether y+ is the start of the next step's inner steps, and the implicit rule's v that
        of its next linear system; else the first y is, and 0.
      inner_optimizer, outer_optimizer: optax transformations in place of a and c; the inner one starts
        afresh in every step.

    Cost: a step takes K inner gradients and what the rule takes, see each.

    Rate: that of gradient descent on F, up to the error of the rule.

    Source: see `AID` and `ITD`.
    """

    inner_steps: Count = 10
    adjoint: Adjoint | None = None
    warm_start: bool = True

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        # The solver of each step runs the inner optimizer, from a fresh state. The state of the method must
        # not hold another one, which nothing would update.
        moves = moves_of(replace(self, inner_optimizer=None), problem)

        def solver(t: Array) -> Any:
            if self.inner_optimizer is not None:
                return Optax(self.inner_optimizer, self.inner_steps)
            return GradientDescent(at(self.inner_step_size, t), self.inner_steps)

        def step(s: State) -> tuple[State, Info]:
            inner_key, outer_key = split_key(s, 2)
            inside = draw(inner_key, problem.inner_data, self.batch_size)
            outside = draw(outer_key, problem.outer_data, self.batch_size)
            inner = lambda y, theta: problem.inner(y, theta, inside)
            outer = lambda y, theta: problem.outer(y, theta, outside)
            solve = argmin(inner, solver(s.step), adjoint=self.adjoint)
            y0 = s.y if self.warm_start else s.memory.y0
            hg = hypergradient(outer, solve)(y0, s.theta, v0=s.memory.v)
            gradients, hvps = self.inner_steps + 1, hg.report.hvp_evals
            direction, v = unpacked(hg.gradient), unpacked(hg.v)
            said = info(inner(y0, s.theta), hg.value, direction, gradients, hvps)
            memory = s.memory if s.memory.v is None else s.memory._replace(v=v)
            new = s._replace(y=hg.solution.value, memory=memory)
            return moves.theta(new, direction), said

        implicit = self.adjoint is None or isinstance(self.adjoint, Implicit)
        name = "AID" if implicit else "ITD" if isinstance(self.adjoint, Unroll) else None

        def start(y0: Tree, theta0: Tree) -> StepStart:
            v = zeros_like(y0) if implicit and self.warm_start else None
            return StepStart(None if self.warm_start else y0, v)

        return algorithm(self, problem, moves, step, name=name, memory=start)


def AID(
    inner_step_size: StepSize,
    outer_step_size: StepSize,
    batch_size: int | None = None,
    inner_steps: int = 10,
    linear_steps: int = 10,
    linear_solver: LinearSolver | None = None,
    **settings: Any,
) -> DoubleLoop:
    """Approximate implicit differentiation: the double loop with `Implicit` at the last inner iterate.

        v = `linear_steps` steps of conjugate gradients on  d2_yy g v = grad_y f
        theta <- theta - c (grad_theta f - d2_thetay g v)                          at (y+, theta)

    The error of the direction is at most of the order of |y+ - y*| and of |v - v*|.

    Args:
      linear_steps: at most as many; not looked at where `linear_solver` is given.
      linear_solver: None for `CG(linear_steps, 1e-10)`; `Neumann(num_terms=Q, step_size=a)` is the
        fixed-point form. With a warm start either continues from the last v, so that the error of few
        steps vanishes over the outer steps; a series that starts from 0 keeps its bias.
      others: those of `DoubleLoop`.

    Source: Pedregosa 2016; Rajeswaran et al. 2019 (iMAML); Grazzi et al. 2020, for the errors.
    """
    require("linear_steps", linear_steps, Count)
    linear_solver = CG(linear_steps, 1e-10) if linear_solver is None else linear_solver
    adjoint = Implicit(linear_solver)
    return DoubleLoop(
        inner_step_size, outer_step_size, batch_size, inner_steps, adjoint, **settings
    )


def ITD(
    inner_step_size: StepSize,
    outer_step_size: StepSize,
    batch_size: int | None = None,
    inner_steps: int = 10,
    **settings: Any,
) -> DoubleLoop:
    """Iterative differentiation: the double loop with `Unroll`, through the K inner steps.

    The direction is the exact gradient of `f(y_K(theta), theta)`. On a quadratic `g` it is that of the
    series of K terms, `(I - (I - a H)^K) H^{-1}`: the fixed point with a warm start is off by a factor
    of order `(1 - a mu)^K`. Memory of K inner iterates.

    Args: those of `DoubleLoop`.

    Source: Domke 2012; Maclaurin et al. 2015; Franceschi et al. 2017.
    """
    return DoubleLoop(
        inner_step_size, outer_step_size, batch_size, inner_steps, Unroll(), **settings
    )
