"""`ProjectedGradient`: gradient descent for minima over a convex set."""

from __future__ import annotations

from typing import Annotated, Any

from toolkit.settings import Count, NonNegative, Tolerance, settings
from toolkit.solver.proximal_gradient import ProximalGradient
from toolkit.solver.requirements import PerStep, require_schedule
from toolkit.types import InnerProblem, Method, Tree
from toolkit.vocabulary.kinds import Given

Projection = Annotated[
    Any,
    Given(
        "a callable (y, theta) -> tree like y, such as tk.projection.simplex",
        fits=callable,
        names="toolkit.projection",
    ),
]


@settings("projected_gradient")
class ProjectedGradient:
    """`y <- projection(y - step_size * grad, theta)`: minimises `fun` over a convex set.

    The projections of `tk.projection` serve, their parameters from `theta`:

        simplex = ProjectedGradient(tk.projection.simplex, 0.1, 1000, 1e-8)       # theta: its sum
        box = ProjectedGradient(lambda y, t: tk.projection.box(y, t["bounds"]), 0.1, 1000, 1e-8)

    and so do those of `optax.projections`.

    Args:
      projection: `(z, theta) -> tree like z`, the nearest point of the set.
      step_size, max_steps, tol, accelerated, restart: as in `tk.solver.ProximalGradient`, of which this is
        the case that g is 0 inside the set and infinite outside.

    Differentiation: as there; bounds, radii and right-hand sides are hyperparameters. At a kink (a
    bound that is reached with a vanishing multiplier) the derivative is the projection's own
    convention: `optax.projections.projection_box` takes half of either side, `tk.projection.box` the
    side on which the bound is not active.

    Cost: one gradient and one projection a step; with `step_size=None` as there.
    """

    projection: Projection
    step_size: NonNegative | PerStep | None
    max_steps: Count
    tol: Tolerance
    accelerated: bool = False
    restart: bool = True

    def __post_init__(self) -> None:
        require_schedule("step_size", self.step_size, self.max_steps)

    def bind(self, problem: InnerProblem) -> Method:
        """The steps on `problem`, an argmin."""

        # g is 0 or infinite, so s g = g: the proximal map is the projection for every step size.
        def prox(z: Tree, theta: Tree, step_size: Tree) -> Tree:
            return self.projection(z, theta)

        shared = (self.step_size, self.max_steps, self.tol, self.accelerated, self.restart)
        return ProximalGradient(prox, *shared).bind(problem)
