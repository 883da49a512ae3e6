"""`Forward`: one tangent for each hyperparameter, carried along with the steps."""

from __future__ import annotations

from collections.abc import Callable

from jax import Array

from toolkit.adjoint.requirements import require_steps
from toolkit.derive.tangents import forward_rule
from toolkit.derive.two_modes import name_missing_mode
from toolkit.settings import Count, settings
from toolkit.types import InnerProblem, Primal, Tree


@settings("forward")
class Forward:
    """The derivative of the computed iterate, by one tangent a hyperparameter beside the steps.

    `dy_{t+1} = phi_y dy_t + phi_theta dtheta`, for all unit directions of `theta` at once.

    Args:
      max_tangents: refuse more scalar hyperparameters than this; each costs a tangent.

    Raises:
      ValueError: a callable solver, or more than `max_tangents` differentiated entries.

      TypeError: a derivative passes through a function of `fun` that has a backward pass alone.

    Differentiation: forward and reverse mode; higher orders by forward mode over either. Step
    sizes, momenta, `xs` and `y0` are differentiated where the caller differentiates them, and each
    of their entries counts as a hyperparameter.

    Cost: with `P` scalar hyperparameters, `P + 2` runs of the solver in time, `P` iterates in
    memory, whatever `num_steps` is; the same in forward mode.

    Source: Franceschi et al. 2017 (forward-HG); Wengert 1964.
    """

    max_tangents: Count = 1000

    @property
    def presumes_solution(self) -> bool:
        """False: exact for the iterate that was computed."""
        return False

    def differentiable(
        self, problem: InnerProblem, primal: Primal
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """`primal.run` with the derivative of its steps, carried forward."""
        require_steps("Forward", primal)
        solve = (
            primal.run
        )  # not `primal`, which holds the user's functions: the rule is kept in a program

        def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
            return solve(y0, theta, xs)

        def push(*arguments: Tree) -> tuple[Tree, Array]:
            return run(*name_missing_mode("Forward()", problem, *arguments))

        return forward_rule(run, push, self._require)

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """One for each step and tangent."""
        return steps * hyperparameters

    def _require(self, scalars: int) -> None:
        if scalars > self.max_tangents:
            raise ValueError(
                f"`theta` must have at most max_tangents={self.max_tangents} differentiated "
                f"entries under Forward: got {scalars}, and each costs a run of the solver; use "
                "Unroll() or Implicit(), or raise max_tangents."
            )
