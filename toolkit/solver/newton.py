"""`Newton`: full Newton steps, for minima, roots and fixed points."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array

from toolkit import tree
from toolkit.derive.linear_solve import solve
from toolkit.derive.linearised_system import System, explicit, linearise_beside
from toolkit.settings import Count, Tolerance, settings
from toolkit.types import Evaluation, InnerProblem, Method, Tree
from toolkit.vocabulary.roles import LinearSolver


class NewtonState(NamedTuple):
    """The iterate."""

    y: Tree


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

    Cost: one F and one linear solve a step.
    """

    max_steps: Count
    tol: Tolerance
    linear_solver: LinearSolver | None = None

    def bind(self, problem: InnerProblem) -> Method:
        """The steps on `problem`, of any kind."""
        linear_solver = self.linear_solver or problem.linear_solver

        def init(y0: Tree, theta: Tree) -> NewtonState:
            return NewtonState(y0)

        def evaluate(state: NewtonState, theta: Tree, x: Tree) -> Evaluation:
            # F is evaluated where it is linearised. Whether there is a step is decided between the two
            # halves, so the compiler could not merge a second evaluation there with this one.
            # x is this step's input: with per-step inputs the system is that of this step's function.
            residual, system, beside = linearise_beside(problem, state.y, theta, x)
            if problem.own_rule or problem.backward_only:
                # The value that `linearise` returns comes from the rules of the functions inside, and its
                # derivative would be that of the rules' code. This second evaluation still has the rules.
                # Where no derivative is taken XLA removes it.
                result, plain = problem.look(state.y, theta, x)
                result = tree.as_real(problem.residual(state.y, result))
                residual, beside = tree.graft((residual, beside), (result, plain))
            return Evaluation((residual, explicit(system, residual)), residual, beside)

        def update(
            state: NewtonState, needed: tuple[Tree, System], theta: Tree, t: Array, x: Tree
        ) -> NewtonState:
            residual, system = needed
            move, _ = solve(linear_solver, system, residual)
            return NewtonState(tree.add_scaled(state.y, -1, tree.as_like(state.y, move)))

        return Method(
            init, evaluate, update, lambda s: s.y, self.max_steps, self.tol, linearises=True
        )
