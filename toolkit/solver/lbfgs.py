"""`LBFGS`: a quasi-Newton method with a zoom line search, by optax."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.leaves.promotion import standard_promotion, wide_type
from toolkit.settings import Count, Tolerance, settings
from toolkit.solver.optax import OptaxState, typed_objective
from toolkit.solver.requirements import require_kind, require_objective
from toolkit.types import Beside, Evaluation, InnerProblem, Method, Tree


@settings("lbfgs")
class LBFGS:
    """Limited-memory BFGS (10 pairs) with a zoom line search: `optax.lbfgs`.

    Args:
      max_steps: steps at most.
      tol: stop when the 2-norm of the gradient is at most this (absolute).

    Raises:
      ValueError: the solve is no argmin, or its function is complex (`Nudged(scheme="holomorphic")`).

    Differentiation: by the rules that need no steps (implicit, nudged, stopped). Its
    line search loops on data, which reverse mode cannot cross.

    Cost: one value and gradient for each trial of the line search, usually one or two a step; a
    step starts from what the last line search evaluated. Memory of 20 iterates.

    Source: Liu & Nocedal 1989; line search: Nocedal & Wright 2006, algorithms 3.5 and 3.6.
    """

    max_steps: Count
    tol: Tolerance

    def bind(self, problem: InnerProblem) -> Method:
        """The steps on `problem`, an argmin; complex leaves as pairs of real ones."""
        require_kind(self, problem.kind, ("argmin",), "tk.solver.Newton or Anderson")
        objective, optimizer = require_objective(self, problem), optax.lbfgs()

        def real_objective(like: Tree, theta: Tree, x: Tree) -> Callable[[Tree], Array]:
            real = tree.as_real(like)
            lying = tree.specs(real)

            def fun(point: Tree) -> Array:
                return objective(tree.as_like(like, tree.spread(point, lying)), theta, x)

            return typed_objective(fun, real, value_like=_searched(real))

        def init(y0: Tree, theta: Tree) -> OptaxState:
            return OptaxState(y0, optimizer.init(_searched(tree.as_real(y0))))

        @standard_promotion  # optax mixes types
        def evaluate(state: OptaxState, theta: Tree, x: Tree) -> Evaluation:
            fun, real = real_objective(state.y, theta, x), _searched(tree.as_real(state.y))
            if x is None:
                # The last line search ended at this point and left its value and gradient in the state.
                value, gradient = optax.value_and_grad_from_state(fun)(real, state=state.optimizer)
            else:  # with per-step inputs those would belong to the function of the step before
                value, gradient = jax.value_and_grad(fun)(real)
            return Evaluation((value, gradient), gradient, Beside(value))

        @standard_promotion
        def update(
            state: OptaxState, needed: tuple[Array, Tree], theta: Tree, t: Array, x: Tree
        ) -> OptaxState:
            value, gradient = needed
            real = _searched(tree.as_real(state.y))
            updates, inner = optimizer.update(
                gradient,
                state.optimizer,
                real,
                value=value,
                grad=gradient,
                value_fn=real_objective(state.y, theta, x),
            )
            before = tree.as_real(state.y)
            moved = tree.typed_like(before, optax.apply_updates(real, updates))
            moved = tree.spread(moved, tree.specs(before))
            return OptaxState(tree.as_like(state.y, moved), inner)

        def forget(state: OptaxState, stale: Array) -> OptaxState:
            # An infinite value is one that `value_and_grad_from_state` does not use.
            value = optax.tree.get(state.optimizer, "value")
            value = jnp.where(stale, jnp.inf, value).astype(value.dtype)
            return OptaxState(state.y, optax.tree.set(state.optimizer, value=value))

        return Method(
            init, evaluate, update, lambda s: s.y, self.max_steps, self.tol, forget=forget
        )


def _searched(real: Tree) -> Tree:
    """`real` in one type, float32 at least, in which the line search compares values.

    The values of a float16 problem may be too large for float16, or differ in digits that it has not.
    optax compares them in the type of its point. It also multiplies points, which may not lie along an explicit
    axis of a mesh then.
    """
    dtype = wide_type(*jax.tree.leaves(real))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree.gathered(real))
