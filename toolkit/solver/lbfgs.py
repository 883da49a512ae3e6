"""`LBFGS`: a quasi-Newton method with a line search; within bounds, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.leaves.promotion import standard_promotion, wide_type
from toolkit.settings import Count, Tolerance, settings
from toolkit.solver.bounds import Bounds, Limits, bounded, clip, limits, optimality
from toolkit.solver.optax import OptaxState, typed_objective
from toolkit.solver.projected_lbfgs import Pairs, Point, descend, no_pairs
from toolkit.solver.requirements import require_kind, require_objective
from toolkit.types import Beside, Evaluation, InnerProblem, Method, Tree


class BoundedState(NamedTuple):
    """An iterate within bounds, and what is known about the objective there."""

    y: Tree
    value: Array  # [] infinite where nothing is known
    gradient: Array  # [N]
    pairs: Pairs
    stalled: Array  # [] bool, whether the objective did not descend from here


@settings("lbfgs")
class LBFGS:
    """Limited-memory BFGS with a line search: `optax.lbfgs`; within bounds a two-metric projection.

    Args:
      max_steps: steps at most.
      tol: stop when the 2-norm of the gradient is at most this (absolute); with bounds that of
        `y - clip(y - gradient)`.
      bounds: `(lower, upper)`, each a number, an array or a tree that broadcasts to `y` (`-jnp.inf`, `jnp.inf`:
        none), or a callable `theta -> (lower, upper)`. They are hyperparameters. A start outside is moved to
        the bound. One `lower > upper` gives NaN.
      history: pairs of iterates and gradients that are kept.

    Returns: with bounds status `STALLED` where no descent was found above `tol`: the objective is not that of
    the gradient, or `tol` is below what rounding admits.

    Raises:
      ValueError: the solve is no argmin, or its function is complex (`Nudged(scheme="holomorphic")`); bounds of
        another form, or of a complex `y0`.

    Differentiation: by the rules that need no steps (implicit, nudged, stopped). Its
    line search loops on data, which reverse mode cannot cross. With bounds by `Implicit` and `Stopped`: where a
    bound is active `y` follows it, and only the Hessian of the free entries counts. At a kink (an active bound
    with a gradient of 0) the derivative is that of the side where the bound is not active.

    Cost: one value and gradient for each trial of the line search, usually one or two a step; a
    step starts from what the last line search evaluated. Memory of `2 * history` iterates.

    Source: Liu & Nocedal 1989; line search: Nocedal & Wright 2006, algorithms 3.5 and 3.6; with bounds:
    Bertsekas 1982, section 2.
    """

    max_steps: Count
    tol: Tolerance
    bounds: Bounds | None = None
    history: Count = 10

    def bind(self, problem: InnerProblem) -> Method:
        """The steps on `problem`, an argmin; complex leaves as pairs of real ones."""
        require_kind(self, problem.kind, ("argmin",), "tk.solver.Newton or Anderson")
        if self.bounds is not None:
            return self._bind_bounded(problem, require_objective(self, problem))
        objective, optimizer = (
            require_objective(self, problem),
            optax.lbfgs(memory_size=self.history),
        )

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

    def _bind_bounded(self, problem: InnerProblem, objective: Callable[..., Array]) -> Method:
        def within(y: Tree, theta: Tree) -> Limits:
            return limits(self.bounds, problem, y, theta)

        def point_at(like: Tree, theta: Tree, x: Tree) -> Callable[[Array], Point]:
            back, dtype = _typed_back(like), wide_type(*jax.tree.leaves(like))
            fun = lambda vector: objective(back(vector), theta, x).astype(dtype)

            def at(vector: Array) -> Point:
                vector = _flat(back(vector))  # as the objective sees it
                return Point(vector, *jax.value_and_grad(fun)(vector))

            return at

        def init(y0: Tree, theta: Tree) -> BoundedState:
            y = clip(y0, within(y0, theta))
            flat = _flat(y)
            value, pairs = jnp.full((), jnp.inf, flat.dtype), no_pairs(self.history, flat)
            memory = (value, jnp.zeros_like(flat), pairs, jnp.asarray(False))
            # Inside `jax.shard_map` bounds may make `y` differ between devices where the function does not.
            return BoundedState(y, *vary(memory, varying_axes(y)))

        def evaluate(state: BoundedState, theta: Tree, x: Tree) -> Evaluation:
            at, flat = point_at(state.y, theta, x), _flat(state.y)
            known = Point(flat, state.value, state.gradient)
            if x is None:
                # The last line search ended at this point and left its value and gradient in the state.
                here = jax.lax.cond(jnp.isfinite(state.value), lambda: known, lambda: at(flat))
            else:  # with per-step inputs those would belong to the function of the step before
                here = at(flat)
            slope = tree.nan_unless(jnp.isfinite(here.value), here.gradient)
            left = optimality(state.y, _typed_back(state.y)(slope), within(state.y, theta))
            return Evaluation((here.value, here.gradient), left, Beside(here.value))

        def update(
            state: BoundedState, needed: tuple[Array, Array], theta: Tree, t: Array, x: Tree
        ) -> BoundedState:
            lower, upper = map(_flat, within(state.y, theta))
            here = Point(_flat(state.y), *needed)
            new, pairs, stalled = descend(
                point_at(state.y, theta, x), here, state.pairs, lower, upper
            )
            y = _typed_back(state.y)(new.y)
            return BoundedState(y, new.value, new.gradient, pairs, stalled)

        def forget(state: BoundedState, stale: Array) -> BoundedState:
            # The bounds may have moved as well.
            return state._replace(value=jnp.where(stale, jnp.inf, state.value))

        return Method(
            init,
            evaluate,
            update,
            lambda s: s.y,
            self.max_steps,
            self.tol,
            proximal=bounded(self.bounds, problem),
            linearises=True,
            forget=forget,
            stalled=lambda s: s.stalled,
        )


def _flat(y: Tree) -> Array:
    return tree.ravel(_searched(y))[0]


def _typed_back(like: Tree) -> Callable[[Array], Tree]:
    """The way from the vector of `_flat` to a tree in the types of `like`."""
    like, lying = tree.strong(like), tree.specs(like)
    unravel = tree.ravel(_searched(like))[1]
    return lambda vector: tree.spread(tree.typed_like(like, unravel(vector)), lying)


def _searched(real: Tree) -> Tree:
    """`real` in one type, float32 at least, in which the line search compares values.

    The values of a float16 problem may be too large for float16, or differ in digits that it has not.
    optax compares them in the type of its point. It also multiplies points, which may not lie along an explicit
    axis of a mesh then.
    """
    dtype = wide_type(*jax.tree.leaves(real))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree.gathered(real))
