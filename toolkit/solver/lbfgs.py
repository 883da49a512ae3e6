"""`LBFGS`: a quasi-Newton method with a line search; within bounds, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.leaves.promotion import standard_promotion, wide_type
from toolkit.settings import Count, Tolerance, settings
from toolkit.solver.bounds import Bounds, Limits, bounded, clip, limits, optimality
from toolkit.solver.quasi_newton import Pairs, descend, no_pairs
from toolkit.solver.requirements import require_kind, require_objective
from toolkit.solver.wolfe import Point
from toolkit.types import Beside, Evaluation, InnerProblem, Method, Tree


class Known(NamedTuple):
    """What is known of the objective at the iterate: the last line search ended there."""

    value: Array  # []
    gradient: Array  # [N]
    is_known: Array | None  # [] bool; None where it always is


class LBFGSState(NamedTuple):
    """The iterate, and what the next step needs."""

    y: Tree
    known: Known
    pairs: Pairs
    stalled: Array  # [] bool, whether the objective did not descend from here


@settings("lbfgs")
class LBFGS:
    """Limited-memory BFGS with a line search; within bounds a two-metric projection.

    Args:
      max_steps: steps at most.
      tol: stop when the 2-norm of the gradient is at most this (absolute); with bounds that of
        `y - clip(y - gradient)`.
      bounds: `(lower, upper)`, each a number, an array or a tree that broadcasts to `y` (`-jnp.inf`, `jnp.inf`:
        none), or a callable `theta -> (lower, upper)`. They are hyperparameters. A start outside is moved to
        the bound. One `lower > upper` gives NaN.
      history: pairs of iterates and gradients that are kept.

    Returns: status `STALLED` where no descent was found above `tol`: the objective is not that of the gradient,
    or `tol` is below what rounding admits.

    Raises:
      ValueError: the solve is no argmin, or its function is complex (`Nudged(scheme="holomorphic")`); bounds of
        another form, or of a complex `y0`.

    Differentiation: by the rules that need no steps (implicit, nudged, stopped). Its
    line search loops on data, which reverse mode cannot cross. With bounds by `Implicit` and `Stopped`: where a
    bound is active `y` follows it, and only the Hessian of the free entries counts. At a kink (an active bound
    with a gradient of 0) the derivative is that of the side where the bound is not active.

    Cost: one value and gradient for each trial of the line search, usually one or two a step; a
    step starts from what the last line search evaluated. Memory of `2 * history` iterates.

    Source: Liu & Nocedal 1989; line search: the weak conditions of Wolfe, by doubling and bisection (Lewis &
    Overton 2013, algorithm 2.6), near a solution by slopes (Hager & Zhang 2005); with bounds: Bertsekas 1982,
    section 2.
    """

    max_steps: Count
    tol: Tolerance
    bounds: Bounds | None = None
    history: Count = 10

    def bind(self, problem: InnerProblem) -> Method:
        """The steps on `problem`, an argmin; complex leaves as pairs of real ones."""
        require_kind(self, problem.kind, ("argmin",), "tk.solver.Newton or Anderson")
        objective, is_bounded = require_objective(self, problem), self.bounds is not None

        def box(y: Tree, theta: Tree) -> Limits | None:
            if not is_bounded:
                return None
            return Limits(*map(_flat, limits(self.bounds, problem, y, theta)))

        def point_at(like: Tree, theta: Tree, x: Tree) -> Callable[[Array], Point]:
            back, dtype = _typed_back(like), wide_type(*jax.tree.leaves(tree.as_real(like)))
            fun = lambda vector: objective(back(vector), theta, x).astype(dtype)

            def at(vector: Array) -> Point:
                vector = _flat(back(vector))  # as the objective sees it
                return Point(vector, *jax.value_and_grad(fun)(vector))

            return at

        def init(y0: Tree, theta: Tree) -> LBFGSState:
            y = clip(y0, limits(self.bounds, problem, y0, theta)) if is_bounded else y0
            flat = _flat(y)
            nothing = Known(jnp.zeros((), flat.dtype), jnp.zeros_like(flat), jnp.asarray(False))
            memory = (nothing, no_pairs(self.history, flat), jnp.asarray(False))
            # Inside `jax.shard_map` bounds may make `y` differ between devices where the function does not.
            return LBFGSState(y, *vary(memory, varying_axes(y)))

        @standard_promotion  # the line search mixes types
        def evaluate(state: LBFGSState, theta: Tree, x: Tree) -> Evaluation:
            at, flat, known = point_at(state.y, theta, x), _flat(state.y), state.known
            last = Point(flat, known.value, known.gradient)
            if x is not None:  # what is known belongs to the function of the step before
                here = at(flat)
            elif known.is_known is None:
                here = last
            else:
                here = jax.lax.cond(known.is_known, lambda: last, lambda: at(flat))
            # An infinite value says nothing about where it falls.
            slope = tree.nan_unless(jnp.isfinite(here.value), here.gradient)
            residual: Tree = slope
            if is_bounded:
                gradient = _typed_back(state.y)(slope)
                residual = optimality(
                    state.y, gradient, limits(self.bounds, problem, state.y, theta)
                )
            return Evaluation((here.value, here.gradient), residual, Beside(here.value))

        @standard_promotion
        def update(
            state: LBFGSState, needed: tuple[Array, Array], theta: Tree, t: Array, x: Tree
        ) -> LBFGSState:
            here = Point(_flat(state.y), *needed)
            at = point_at(state.y, theta, x)
            new, pairs, stalled = descend(at, here, state.pairs, box(state.y, theta))
            is_known = state.known.is_known
            is_known = None if is_known is None else jnp.ones_like(is_known)
            known = Known(new.value, new.gradient, is_known)
            return LBFGSState(_typed_back(state.y)(new.y), known, pairs, stalled)

        def keep(state: LBFGSState, needed: tuple[Array, Array]) -> LBFGSState:
            return state._replace(known=Known(*needed, None))

        def forget(state: LBFGSState, stale: Array) -> LBFGSState:
            # The bounds may have moved as well.
            known = state.known
            assert known.is_known is not None  # a loop by hand begins without an evaluation
            return state._replace(known=known._replace(is_known=known.is_known & ~stale))

        return Method(
            init,
            evaluate,
            update,
            lambda s: s.y,
            self.max_steps,
            self.tol,
            proximal=bounded(self.bounds, problem) if is_bounded else None,
            linearises=is_bounded,
            forget=forget,
            keep=keep,
            stalled=lambda s: s.stalled,
        )


def _flat(y: Tree) -> Array:
    return tree.ravel(_searched(tree.as_real(y)))[0]


def _typed_back(like: Tree) -> Callable[[Array], Tree]:
    """The way from the vector of `_flat` to a tree in the types of `like`."""
    like = tree.strong(like)
    real, lying = tree.as_real(like), tree.specs(tree.as_real(like))
    unravel = tree.ravel(_searched(real))[1]

    def back(vector: Array) -> Tree:
        moved = tree.spread(tree.typed_like(real, unravel(vector)), lying)
        return tree.as_like(like, moved)

    return back


def _searched(real: Tree) -> Tree:
    """`real` in one type, float32 at least, in which the line search compares values.

    The values of a float16 problem may be too large for float16, or differ in digits that it has not.
    It also multiplies points, which may not lie along an explicit axis of a mesh then.
    """
    dtype = wide_type(*jax.tree.leaves(real))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree.gathered(real))
