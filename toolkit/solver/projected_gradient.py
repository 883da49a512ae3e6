"""`ProjectedGradient`: gradient descent for minima over a convex set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from toolkit.errors.readable import readable
from toolkit.solver.proximal_gradient import ProximalGradient
from toolkit.solver.settings import Schedule, require_schedule, require_steps, require_tol
from toolkit.types import InnerProblem, Method, Tree


@dataclass(frozen=True)
class ProjectedGradient:
    """`y <- projection(y - step_size * grad, theta)`: minimises `fun` over a convex set.

    The projections of `optax.projections` serve, their parameters from `theta`:

        simplex = ProjectedGradient(projection_simplex, 0.1, 1000, 1e-8)          # theta: its scale
        box = ProjectedGradient(lambda y, t: projection_box(y, t["lower"], t["upper"]), 0.1, 1000, 1e-8)

    and `tk.prox.affine` for `{y: A y = b}`.

    Args:
      projection: `(z, theta) -> tree like z`, the nearest point of the set.
      step_size, max_steps, tol: as in `tk.solver.ProximalGradient`, of which this is the case that g
        is 0 inside the set and infinite outside.

    Differentiation: as there; bounds, radii and right-hand sides are hyperparameters. At a kink (a
    bound that is reached with a vanishing multiplier) the derivative is the projection's own
    convention: `optax.projections.projection_box` takes half of either side, `tk.prox.box` the side
    on which the bound is not active.

    Cost: one gradient and one projection a step.
    """

    projection: Callable[[Tree, Tree], Tree]
    step_size: Schedule
    max_steps: int
    tol: float

    @readable
    def __post_init__(self) -> None:
        if not callable(self.projection):
            raise ValueError(
                "`projection` must be a callable (y, theta) -> tree like y, such as "
                f"optax.projections.projection_simplex: got {self.projection!r}."
            )
        require_steps("max_steps", self.max_steps)
        require_schedule("step_size", self.step_size, self.max_steps)
        require_tol(self.tol)

    def bind(self, problem: InnerProblem) -> Method:
        """The steps on `problem`, an argmin."""

        def prox(z: Tree, theta: Tree, step_size: Tree) -> Tree:
            return self.projection(z, theta)

        return ProximalGradient(prox, self.step_size, self.max_steps, self.tol).bind(problem)
