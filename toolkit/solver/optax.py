"""`Optax`: any optax transformation as a solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from jax import Array

from toolkit import tree
from toolkit.leaves.promotion import standard_promotion
from toolkit.optimizers import built
from toolkit.settings import Natural, Tolerance, settings
from toolkit.solver.requirements import require_kind, require_objective
from toolkit.types import Evaluation, InnerProblem, Method, Tree
from toolkit.vocabulary.roles import Optimizer


class OptaxState(NamedTuple):
    """Iterate and the optimizer's own state."""

    y: Tree
    optimizer: Tree


@settings("optax")
class Optax:
    """`updates, s <- optimizer.update(grad, s, y); y <- y + updates`.

    Args:
      optimizer: an optax transformation. One that asks for more (`optax.lbfgs`, `polyak_sgd`)
        is given `value`, `grad` and `value_fn`.
      num_steps: the number of steps, or its limit when `tol` is given.
      tol: stop when the 2-norm of the gradient is at most this (absolute); None never stops early.

    Raises:
      ValueError: the solve is no argmin, or the transformation compares values under
        `Nudged(scheme="holomorphic")`, where the function is complex.

    Differentiation: hyperparameters inside the transformation's closure are differentiated where
    they are traced values (`optax.sgd(theta["rate"])` built inside the differentiated function).
    Adam differentiated at a zero second moment is NaN: set its `eps_root > 0` where it is unrolled.

    Cost: one gradient a step.
    """

    optimizer: Optimizer
    num_steps: Natural
    tol: Tolerance | None = None

    def bind(self, problem: InnerProblem) -> Method:
        """The steps on `problem`, an argmin."""
        require_kind(self, problem.kind, ("argmin",), "tk.solver.Newton or FixedPointIteration")
        objective, optimizer = problem.objective, built(self.optimizer)
        takes_extra = isinstance(optimizer, optax.GradientTransformationExtraArgs)

        def init(y0: Tree, theta: Tree) -> OptaxState:
            return OptaxState(y0, optimizer.init(y0))

        def evaluate(state: OptaxState, theta: Tree, x: Tree) -> Evaluation:
            gradient, beside = problem.look(state.y, theta, x)
            return Evaluation(gradient, gradient, beside)

        @standard_promotion  # optax mixes types
        def update(state: OptaxState, gradient: Tree, theta: Tree, t: Array, x: Tree) -> OptaxState:
            extra = {}
            if takes_extra and objective is not None:
                fun = typed_objective(lambda y: objective(y, theta, x), state.y, state.y)
                extra = {"value": fun(state.y), "grad": gradient, "value_fn": fun}
            try:
                updates, inner = optimizer.update(gradient, state.optimizer, state.y, **extra)
            except TypeError:
                # A transformation that needs `value` raises a TypeError where there is none. Then the
                # user is told why there is none; any other error is passed on.
                require_objective(self, problem)
                raise
            inner = tree.typed_like(state.optimizer, inner)
            return OptaxState(optax.apply_updates(state.y, updates), inner)

        return Method(init, evaluate, update, lambda s: s.y, self.num_steps, self.tol)


def typed_objective(
    objective: Callable[[Tree], Array], like: Tree, value_like: Tree
) -> Callable[[Tree], Array]:
    """`objective` as optax's line searches need it.

    Where x64 is enabled they evaluate it at float64 points of a float32 `y`, and they compare its values
    in the type of the first leaf that they were given. So points are cast to the types of `like`, and values
    to that of `value_like`.
    """
    dtype = jax.tree.leaves(value_like)[0].real.dtype
    return lambda y: objective(tree.typed_like(like, y)).astype(dtype)
