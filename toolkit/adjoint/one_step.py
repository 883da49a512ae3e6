"""`OneStep`: the derivative of one more step of the solver, at the solution."""

from __future__ import annotations

from collections.abc import Callable

from jax import Array

from toolkit import tree
from toolkit.adjoint.requirements import require_one_objective, require_steps
from toolkit.derive.two_modes import name_missing_mode
from toolkit.settings import settings
from toolkit.types import InnerProblem, Primal, Tree


@settings("one_step")
class OneStep:
    """The derivative of one application of the solver's step at the solution.

    With the step `phi(y, theta)`, `dy = phi_theta dtheta`: the implicit derivative with `phi_y`
    left out. Its bias is of the order of the step's contraction factor: small for fast solvers
    (for Newton's method it is the implicit derivative itself), and large for short gradient steps.

    For a callable solver the step is the map itself (fixed point), or the callable once more from
    its own solution.

    Raises:
      ValueError: per-step inputs `xs`, or a solver whose steps contain a line search.

    Differentiation: forward and reverse mode, any order that the step admits. Zero by
    construction: with respect to `y0`.

    Cost: one step more than the solve, and one product with its derivative.

    Source: Bolte, Pauwels & Vaiter 2023, equation 3.
    """

    @property
    def presumes_solution(self) -> bool:
        """True: the derivative of one step stands for that of the solution only at a solution."""
        return True

    def differentiable(
        self, problem: InnerProblem, primal: Primal
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """`primal.run` with the derivative of one more step."""
        if primal.steps is not None and primal.steps.loops_on_data:
            raise ValueError(
                f"`solver` must have steps that reverse mode can cross under OneStep: got "
                f"{primal.name}, whose steps contain a data-dependent loop (a line search); use "
                "the adjoint Implicit, or tk.solver.GradientDescent."
            )

        if primal.no_derivative and problem.kind != "fixed_point":
            require_steps("OneStep", primal)

        def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
            require_one_objective("OneStep", xs)
            constant = tree.stop_gradient((y0, theta, None))
            _, theta, _ = name_missing_mode("OneStep()", problem, y0, theta, None)
            if primal.steps is not None:
                # The value is what the solve returns; the additional step gives the derivative alone.
                carry = tree.stop_gradient(primal.steps.run(*constant))
                y, made = primal.steps.finish(carry)
                return tree.graft(y, primal.steps.once(carry, theta)), made
            y, made = tree.stop_gradient(primal.run(*constant))
            if problem.kind == "fixed_point":
                return tree.graft(y, problem.evaluate(y, theta, None)), made
            return tree.graft(y, primal.run(y, theta, None)[0]), made

        return run

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """One product, as an array like `steps`."""
        return 0 * steps + 1
