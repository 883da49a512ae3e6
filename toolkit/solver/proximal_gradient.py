"""`ProximalGradient`: for sums of a smooth function and one that has a proximal map."""

from __future__ import annotations

from typing import Annotated, Any

from jax import Array

from toolkit.settings import Count, NonNegative, Tolerance, settings
from toolkit.solver.accelerated import accelerated_steps
from toolkit.solver.proximal_steps import proximal_steps, returned_like
from toolkit.solver.requirements import PerStep, require_kind, require_schedule
from toolkit.solver.searched import Splitting, searched_steps
from toolkit.types import InnerProblem, Method, Tree
from toolkit.vocabulary.kinds import Given

Prox = Annotated[
    Any,
    Given(
        "a callable (y, theta, step_size) -> tree like y, such as tk.prox.lasso",
        fits=callable,
        names="toolkit.prox",
    ),
]


@settings("proximal_gradient")
class ProximalGradient:
    """`y <- prox(y - step_size * grad, theta, step_size)`: minimises `fun + g` over y.

    `prox(z, theta, s) = argmin_y g(y, theta) + |y - z|^2 / (2 s)`; `tk.prox` has those of the lasso,
    the elastic net, the group lasso and of boxes:

        lasso = ProximalGradient(tk.prox.lasso, 0.1, 1000, 1e-8)     # theta is the penalty
        lasso = ProximalGradient(lambda y, theta, s: tk.prox.lasso(y, theta["l1"], s), 0.1, 1000, 1e-8)

    Args:
      prox: `(z, theta, step_size) -> tree like z`; what it closes over is differentiated, too.
      step_size: a number, an array `[]` or `[max_steps]`, or a callable `(theta, step) -> array`;
        below 2 / L for gradients of Lipschitz constant L (1 / L for a monotone descent). None: found by
        backtracking, as `tk.solver.GradientDescent` says.
      max_steps: steps at most.
      tol: stop when the 2-norm of `(y - prox(y - step_size grad)) / step_size` is at most this; with
        `step_size=None` that of `y - prox(y - grad)`, which is the same for all step sizes.
      accelerated: FISTA.
      restart: whether its momentum starts anew where it points uphill.

    Raises:
      ValueError: the solve is no argmin, a schedule has another length than `max_steps`, or `prox`
        returns no tree like `z`.

    Differentiation: by every rule but `Nudged` and `Reversible`, with respect to what `fun` and
    `prox` depend on. `Implicit` differentiates `y = prox(y - s grad(y))`; with a linear solver for
    symmetric systems (`CG`) only the part of the Hessian that the proximal map lets through enters:
    the support of a sparse solution, the free face of a box, which is all that needs to be curved.
    `prox` must be the proximal map of a convex function there (its derivative symmetric). At a kink,
    where the solution is not differentiable, the derivative is that of the branch that `prox` takes
    in its own code (`tk.prox` says which); it is one of the one-sided limits, not their mean.

    Cost: one gradient and one `prox` a step; more with `step_size=None`, as in `tk.solver.GradientDescent`, and
    one `prox` more a trial and one for the residual.

    Source: Parikh & Boyd 2014, section 4.2; FISTA: Beck & Teboulle 2009; derivative: Bertrand et al. 2020,
    proposition 1.
    """

    prox: Prox
    step_size: NonNegative | PerStep | None
    max_steps: Count
    tol: Tolerance
    accelerated: bool = False
    restart: bool = True

    def __post_init__(self) -> None:
        require_schedule("step_size", self.step_size, self.max_steps)

    def bind(self, problem: InnerProblem) -> Method:
        """The steps on `problem`, an argmin."""
        require_kind(self, problem.kind, ("argmin",), "tk.solver.FixedPointIteration")

        def prox(z: Tree, theta: Tree, s: Array) -> Tree:
            out = self.prox(problem.user_y(z, theta), problem.user_theta(theta), s)
            return returned_like("prox", z, out)

        split = Splitting(problem, prox, self.max_steps, self.tol)
        if self.accelerated:
            return accelerated_steps(self, split, self.step_size, self.restart)
        if self.step_size is None:
            return searched_steps(self, split)

        return proximal_steps(problem, prox, self.step_size, self.max_steps, self.tol)
