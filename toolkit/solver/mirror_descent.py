"""`MirrorDescent`: gradient steps in the geometry of a potential."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from toolkit.settings import Count, NonNegative, Tolerance, settings
from toolkit.solver.projected_gradient import Projection
from toolkit.solver.proximal_steps import proximal_steps, returned_like
from toolkit.solver.requirements import PerStep, require_kind, require_schedule
from toolkit.types import InnerProblem, Method, Tree
from toolkit.vocabulary.kinds import Given

Mirror = Annotated[
    Any, Given("a callable y -> tree like y, such as jnp.log on one array", fits=callable)
]


@settings("mirror_descent")
class MirrorDescent:
    """`y <- projection(mirror(y) - step_size * grad, theta)`: minimises `fun` over a convex set.

    `mirror` is the gradient of a strictly convex potential, `projection(z, theta)` the point u of the set that
    minimises `potential(u) - <z, u>`. With the entropy as the potential, on the simplex:

        MirrorDescent(jnp.log, lambda z, theta: jax.nn.softmax(z), 0.5, 1000, 1e-8)

    Args:
      mirror: `y -> tree like y`; what it closes over is differentiated, too. "identity", the one that a config can
        write, belongs to `|y|^2 / 2`: with a projection of `tk.projection` this is projected gradient descent.
      projection: `(z, theta) -> tree like z`; `z` is like `y`.
      step_size: a number, an array `[]` or `[max_steps]`, or a callable `(theta, step) -> array`; below 1 / L
        where `fun` is L times as curved as the potential at most.
      max_steps: steps at most.
      tol: stop when the 2-norm of `(y - projection(mirror(y) - step_size grad, theta)) / step_size` is at most
        this.

    Raises:
      ValueError: the solve is no argmin, a schedule has another length than `max_steps`, or `mirror` or
        `projection` returns no tree like `y`.

    Differentiation: by every rule but `Nudged` and `Reversible`. `Implicit` differentiates
    `y = projection(mirror(y) - s grad(y), theta)`, whose linear system is not symmetric: it takes `Dense`, `GMRES`
    or `BiCGStab`. The start must lie where `mirror` is finite: the logarithm is not at 0, where the value may still
    be right and the derivative is NaN.

    Cost: one gradient, one `mirror` and one `projection` a step.

    Source: Nemirovski & Yudin 1983; Beck & Teboulle 2003, section 3; derivative: Blondel et al. 2022, table 1.
    """

    mirror: Literal["identity"] | Mirror
    projection: Projection
    step_size: NonNegative | PerStep
    max_steps: Count
    tol: Tolerance

    def __post_init__(self) -> None:
        require_schedule("step_size", self.step_size, self.max_steps)

    def bind(self, problem: InnerProblem) -> Method:
        """The steps on `problem`, an argmin."""
        require_kind(self, problem.kind, ("argmin",), "tk.solver.FixedPointIteration")

        def mirror(y: Tree, theta: Tree) -> Tree:
            if self.mirror == "identity":
                return y
            return returned_like("mirror", y, self.mirror(problem.user_y(y, theta)))

        def projection(z: Tree, theta: Tree, step_size: Tree) -> Tree:
            out = self.projection(problem.user_y(z, theta), problem.user_theta(theta))
            return returned_like("projection", z, out)

        return proximal_steps(problem, projection, self.step_size, self.max_steps, self.tol, mirror)
