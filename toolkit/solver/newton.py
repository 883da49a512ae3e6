"""`Newton`: full Newton steps, for minima, roots and fixed points."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.derive.linearised_system import linearise, solve
from toolkit.roles import LinearSolver
from toolkit.settings import Count, Tolerance, settings
from toolkit.types import Evaluation, InnerProblem, Method, Tree


class NewtonState(NamedTuple):
    """The iterate, and the residual of the one before."""

    y: Tree
    residual: Array  # [] 2-norm of F, without derivative


@settings("newton")
class Newton:
    """`y <- y - J^{-1} F(y)`: F the gradient (argmin), the function (root), or `fun(y) - y`.

    Full steps, no line search: quadratic convergence from a start that is near enough, and a
    status that says when it was not. On an argmin it converges to any stationary point.

    Args:
      max_steps: steps at most.
      tol: stop when the 2-norm of F is at most this (absolute).
      linear_solver: None chooses by structure and size, as the implicit rule does.

    Differentiation: by every rule; unrolling differentiates through the linear solves.

    Cost: one F, with its derivative, and one linear solve a step; once more where it ends, to see that it
    has converged.
    """

    max_steps: Count
    tol: Tolerance
    linear_solver: LinearSolver | None = None

    def bind(self, problem: InnerProblem) -> Method:
        """The steps on `problem`, of any kind."""
        linear_solver = self.linear_solver or problem.linear_solver

        def init(y0: Tree, theta: Tree) -> NewtonState:
            # No step has been made yet: an infinite residual meets no tolerance.
            return NewtonState(y0, jnp.full_like(tree.norm(y0), jnp.inf))

        # F and its derivative come from one evaluation, in `update`: what is evaluated apart from the update
        # would be evaluated twice.
        def evaluate(state: NewtonState, theta: Tree, x: Tree) -> Evaluation:
            return Evaluation(None, None)

        def update(state: NewtonState, needed: None, theta: Tree, t: Array, x: Tree) -> NewtonState:
            # x is this step's input: with per-step inputs the system is that of this step's function.
            residual, system = linearise(problem, state.y, theta, x=x)
            move, _ = solve(linear_solver, system, residual)
            y = tree.add_scaled(state.y, -1, tree.as_like(state.y, move))
            norm = tree.norm(tree.stop_gradient(residual))
            return NewtonState(y, norm.astype(state.residual.dtype))

        return Method(
            init,
            evaluate,
            update,
            lambda s: s.y,
            self.max_steps,
            self.tol,
            residual_norm=lambda s: s.residual,
        )
