"""`ProximalGradient`: for sums of a smooth function and one that has a proximal map."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.derive.composite import gradient_step
from toolkit.settings import Count, NonNegative, Tolerance, settings
from toolkit.solver.accelerated import accelerated_steps
from toolkit.solver.requirements import PerStep, require_broadcast, require_kind, require_schedule
from toolkit.solver.schedules import at_step
from toolkit.solver.searched import Splitting, searched_steps
from toolkit.types import Evaluation, InnerProblem, Method, Proximal, Tree
from toolkit.vocabulary.kinds import Given


class ProximalState(NamedTuple):
    """The iterate, and how far from a solution the one before was."""

    y: Tree
    residual: Array  # [] ||y_before - y|| / step_size, without derivative


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
            y = prox(gradient_step(state.y, gradient, s), theta, s)
            # How far the step moved is known only after it, so the residual is kept in the state.
            move = tree.stop_gradient(jax.tree.map(lambda a, b: (a - b) / s, state.y, y))
            return ProximalState(y, tree.norm(move).astype(state.residual.dtype))

        last = max(self.max_steps - 1, 0)
        return Method(
            init,
            evaluate,
            update,
            lambda s: s.y,
            self.max_steps,
            self.tol,
            proximal=Proximal(lambda theta: step_size(theta, jnp.asarray(last, jnp.int32)), prox),
            residual_norm=lambda s: s.residual,
        )


def returned_like(name: str, z: Tree, out: Tree) -> Tree:
    """The floating leaves of what the function `name` returned, checked against its argument."""
    got = tree.split(out).inexact
    describe = lambda t: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), t)
    if jax.tree.structure(got) != jax.tree.structure(z) or describe(got) != describe(z):
        raise ValueError(
            f"`{name}` must return a tree like its first argument: got {tree.describe(out)}, expected "
            f"{tree.describe(z)}."
        )
    return got
