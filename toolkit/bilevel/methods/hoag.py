"""HOAG: inner problem and linear system to a tolerance that shrinks from step to step."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Interval
from jax import Array

from toolkit import tree
from toolkit.bilevel.parts.method_settings import TwoOptimizers
from toolkit.bilevel.parts.oracles import (
    cross,
    draw,
    hvp,
    inner_slope,
    minus,
    outer_slopes,
    zeros_like,
)
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem, info
from toolkit.bilevel.parts.state import Moves, State, algorithm, moves_of, split_key
from toolkit.derive.refusal import refuse_reverse_mode
from toolkit.linear import CG
from toolkit.settings import Count, Natural, Positive, settings
from toolkit.types import Tree

_NO_REVERSE = (
    "A step of HOAG has no reverse mode, as its loops end by their residuals; use forward mode (jax.jvp, "
    "jax.jacfwd), or tk.bilevel.AID or AmIGO, whose steps are counted."
)


class HoagMemory(NamedTuple):
    """The warm start of the linear system, and whether the last step reached its tolerance."""

    v: Tree  # near H^{-1} grad_y outer
    tol: Array  # [] eps of the step
    scale: Array  # [] |grad_y g| at the start of the first step
    inner_residual: Array  # [] |grad_y g|, at most tol unless the steps were used up
    linear_residual: Array  # [] |H v - grad_y f|, at most tol unless the steps were used up


@settings("hoag")
class HOAG(TwoOptimizers):
    """Hyperparameter optimization with approximate gradient: two warm-started solves to `eps_k`.

    With `eps_k = tol decay^k`, but no less than what rounding leaves of the first |grad_y g| (1e-12 of it
    in float64, 6e-6 in float32), nor of |grad_y f| in the linear system:

        y <- y - a grad_y g(y, theta)               until |grad_y g| <= eps_k
        v by conjugate gradients from v             until |d2_yy g v - grad_y f| <= eps_k
        theta <- theta - c (grad_theta f - d2_thetay g v)

    The error of the direction is of order eps_k / mu, and the fixed point exact. Where the steps are used up
    before the tolerance is kept, `state.memory` shows it: its residuals are above its `tol`.

    Args:
      inner_step_size: a; a number or an optax schedule of the outer step.
      outer_step_size: c, at most 1 / (Lipschitz constant of grad F). Unlike the paper's code, it is not
        adapted on the way; give a schedule, or an `outer_optimizer`.
      batch_size: one batch of each data for a whole step; None takes all, as the paper does.
      inner_steps: at most as many.
      linear_steps: at most as many.
      tol: eps_0, absolute.
      decay: in (0, 1): the eps_k are summable, as the theorem asks.
      inner_optimizer, outer_optimizer: optax transformations in place of a and c.

    Cost: a step takes the inner gradients it needs and one more, 1 outer gradient, the products it needs
    with d2_yy and 1 with d2_thetay. Under `vmap`, those of the slowest.

    Rate: |grad F| to 0 where the eps_k are summable, F smooth and theta bounded.

    Source: Pedregosa 2016, algorithm 1 and theorem 2.
    """

    inner_steps: Count = 1000
    linear_steps: Natural = 100
    tol: Positive = 0.1
    decay: Annotated[float, Interval(gt=0, lt=1)] = 0.9

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves = moves_of(self, problem)

        def step(s: State) -> tuple[State, Info]:
            inner_key, outer_key = split_key(s, 2)
            inside = draw(inner_key, problem.inner_data, self.batch_size)
            outside = draw(outer_key, problem.outer_data, self.batch_size)
            s, memory, inner_loss, steps = self._solve_inner(problem, moves, s, inside)
            f = outer_slopes(problem, s.y, s.theta, outside)
            size = tree.norm(f.in_y)
            product = lambda w: hvp(problem, s.y, s.theta, w, inside)
            # CG measures its residual relative to the right-hand side; eps_k is absolute.
            relative: Any = memory.tol / jnp.where(size > 0, size, 1)
            relative = jnp.maximum(relative, _rounding(f.in_y))
            v, said = CG(self.linear_steps, relative)(product, f.in_y, s.memory.v)
            direction = minus(f.in_theta, cross(problem, s.y, s.theta, v, inside))
            memory = memory._replace(v=v, linear_residual=said.residual * size)
            report = info(inner_loss, f.loss, direction, steps + 2, 1 + jnp.asarray(said.products))
            new = moves.theta(s, direction)._replace(memory=memory)
            return refuse_reverse_mode(new, _NO_REVERSE), report

        def start(y0: Tree, theta0: Tree) -> HoagMemory:
            zero = jnp.zeros_like(tree.norm(zeros_like(y0)))
            return HoagMemory(zeros_like(y0), zero, zero, zero, zero)

        return algorithm(
            self,
            problem,
            moves,
            step,
            memory=start,
            symmetric="AID(linear_solver=tk.linear.GMRES(...))",
        )

    def _solve_inner(
        self, problem: Problem, moves: Moves, s: State, batch: Tree
    ) -> tuple[State, HoagMemory, Array, Array]:
        """(state at the tolerance, its new memory, inner loss before the first step, steps)."""
        first, slope = inner_slope(problem, s.y, s.theta, batch)
        scale = jnp.where(s.step == 0, tree.norm(slope), s.memory.scale)
        tol = jnp.asarray(self.tol, scale.dtype) * self.decay ** s.step.astype(scale.dtype)
        # Unlike (Pedregosa 2016, algorithm 1): eps_k has a lower bound. Below what rounding leaves of
        # a gradient no step helps, and each outer step would use up all of its inner steps.
        tol = jnp.maximum(tol, _rounding(slope) * scale)

        def unfinished(carry: tuple[State, Tree, Array]) -> Array:
            _, slope, steps = carry
            return (tree.norm(slope) > tol) & (steps < self.inner_steps)

        def inner_step(carry: tuple[State, Tree, Array]) -> tuple[State, Tree, Array]:
            s, slope, steps = carry
            s = moves.y(s, slope)
            return s, inner_slope(problem, s.y, s.theta, batch)[1], steps + 1

        start = (s, slope, jnp.asarray(0, jnp.int32))
        s, slope, steps = jax.lax.while_loop(unfinished, inner_step, start)
        norm = tree.norm(slope)
        # `NaN > tol` is False: a gradient that is NaN ends the loop as if the problem were solved.
        # With y set to NaN too, every later check sees the failure.
        parts = tree.parts(s.y)
        y = tree.whole(tree.nan_unless(jnp.isfinite(norm), parts.inexact), *parts[1:])
        memory = s.memory._replace(tol=tol, scale=scale, inner_residual=norm)
        return s._replace(y=y), memory, first, steps


def _rounding(like: Tree) -> float:
    """The smallest ratio of last to first residual that a solve in these types can be asked for.

    A residual is a difference of rounded numbers, exact to a few eps of their size. eps^(3/4) leaves
    room above that for a sum of many of them.
    """
    return tree.eps(like) ** 0.75
