"""`Stopped`: the solution is a constant."""

from __future__ import annotations

from collections.abc import Callable

from jax import Array

from toolkit import tree
from toolkit.settings import settings
from toolkit.types import InnerProblem, Primal, Tree


@settings("stopped")
class Stopped:
    """The derivative of the solution is zero: it is treated as a constant.

    Differentiation: forward and reverse mode, any order; zero by construction. An outer function
    that depends on `theta` directly keeps that derivative.

    Cost: none.
    """

    @property
    def presumes_solution(self) -> bool:
        """False: zero whatever the steps were."""
        return False

    @property
    def needs_no_run(self) -> bool:
        """True: there is no derivative to make."""
        return True

    def differentiable(
        self, problem: InnerProblem, primal: Primal
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """`primal.run` with derivative zero."""

        def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
            return primal.run(*tree.stop_gradient((y0, theta, xs)))

        return run

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """No product: 0, as an array like `steps`."""
        return 0 * steps
