"""`FixedPointIteration`: the map again and again, with damping."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax import Array

from toolkit.settings import Count, Fraction, Tolerance, settings
from toolkit.solver.requirements import require_kind
from toolkit.types import Evaluation, InnerProblem, Method, Tree


class IterationState(NamedTuple):
    """The iterate."""

    y: Tree


@settings("fixed_point_iteration")
class FixedPointIteration:
    """`y <- damping * y + (1 - damping) * fun(y, theta)`.

    Args:
      max_steps: steps at most.
      tol: stop when the 2-norm of `fun(y) - y` is at most this (absolute).
      damping: in [0, 1); 0 is the plain iteration.

    Raises:
      ValueError: the solve is no fixed point.

    Differentiation: by every rule. Converges where the damped map is a contraction.

    Cost: one evaluation of `fun` a step.
    """

    max_steps: Count
    tol: Tolerance
    damping: Fraction = 0.0

    def bind(self, problem: InnerProblem) -> Method:
        """The steps on `problem`, a fixed point."""
        require_kind(self, problem.kind, ("fixed_point",), "tk.solver.Newton")

        def init(y0: Tree, theta: Tree) -> IterationState:
            return IterationState(y0)

        def evaluate(state: IterationState, theta: Tree, x: Tree) -> Evaluation:
            new, beside = problem.look(state.y, theta, x)
            return Evaluation(new, problem.residual(state.y, new), beside)

        def update(
            state: IterationState, new: Tree, theta: Tree, t: Array, x: Tree
        ) -> IterationState:
            if isinstance(self.damping, (int, float)) and self.damping == 0:
                return IterationState(new)
            mixed = jax.tree.map(
                lambda old, n: (self.damping * old + (1 - self.damping) * n).astype(old.dtype),
                state.y,
                new,
            )
            return IterationState(mixed)

        return Method(
            init,
            evaluate,
            update,
            lambda s: s.y,
            self.max_steps,
            self.tol,
            cheap_update=True,
            attracted=True,
        )
