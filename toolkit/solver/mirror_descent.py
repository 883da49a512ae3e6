"""`MirrorDescent`: gradient steps in the geometry of a potential."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.derive.composite import gradient_step
from toolkit.settings import Count, NonNegative, Tolerance, settings
from toolkit.solver.projected_gradient import Projection
from toolkit.solver.proximal_gradient import ProximalState, returned_like
from toolkit.solver.requirements import PerStep, require_broadcast, require_kind, require_schedule
from toolkit.solver.schedules import at_step
from toolkit.types import Evaluation, InnerProblem, Method, Proximal, Tree
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

        def init(y0: Tree, theta: Tree) -> ProximalState:
            # No step has been made yet: the largest residual meets no tolerance.
            norm = tree.norm(y0)
            return ProximalState(y0, jnp.full_like(norm, jnp.finfo(norm.dtype).max))

        def evaluate(state: ProximalState, theta: Tree, x: Tree) -> Evaluation:
            gradient, beside = problem.look(state.y, theta, x)
            return Evaluation(gradient, None, beside)

        def step_size(theta: Tree, t: Array) -> Array:
            return jnp.asarray(at_step("step_size", self.step_size, problem.user_theta(theta), t))

        def update(
            state: ProximalState, gradient: Tree, theta: Tree, t: Array, x: Tree
        ) -> ProximalState:
            s = step_size(theta, t)
            require_broadcast("step_size", s, state.y)
            y = projection(gradient_step(mirror(state.y, theta), gradient, s), theta, s)
            move = tree.stop_gradient(jax.tree.map(lambda a, b: (a - b) / s, state.y, y))
            return ProximalState(y, tree.norm(move).astype(state.residual.dtype))

        last = jnp.asarray(max(self.max_steps - 1, 0), jnp.int32)
        return Method(
            init,
            evaluate,
            update,
            lambda state: state.y,
            self.max_steps,
            self.tol,
            proximal=Proximal(lambda theta: step_size(theta, last), projection, mirror=mirror),
            residual_norm=lambda state: state.residual,
        )
