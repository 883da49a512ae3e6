"""F2SA and F3SA: no second derivatives, the lower level as a penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from toolkit.bilevel.parts.method_settings import MethodSettings, Momentum, Rate
from toolkit.bilevel.parts.movers import at, moved
from toolkit.bilevel.parts.oracles import (
    inner_slope,
    inner_slopes,
    minus,
    outer_slopes,
    plus,
    rows,
    take,
    theta_slope,
    zeros_like,
)
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem, info
from toolkit.bilevel.parts.recursive_momentum import fresh_at_first, storm
from toolkit.bilevel.parts.state import Moves, State, algorithm, moves_of, split_key
from toolkit.settings import Count, settings
from toolkit.types import Tree

_Step = Callable[[State], tuple[State, Info]]


class PenaltyGradients(NamedTuple):
    """Gradients that the three directions are made of, before the penalty weighs them."""

    f_y: Tree  # at (y, theta)
    g_y: Tree
    g_z: Tree  # grad_y g at (z, theta)
    f_theta: Tree
    g_theta: Tree  # grad_theta g at (y, theta) less at (z, theta), one batch


class F2saMemory(NamedTuple):
    """The second inner iterate z and, with momentum, the gradients carried on and their point."""

    z: Tree  # near y*(theta); y itself is near the minimiser of outer + penalty inner
    parts: PenaltyGradients | None
    before: tuple[Tree, Tree, Tree] | None  # (y, z, theta) of the step before


@settings("f2sa")
class F2SA(MethodSettings):
    """Fully first-order stochastic approximation; with `momentum`, F3SA.

    With the penalty l of the step and fresh batches B of the inner and B' of the outer data:

        T times:  z <- z - a grad_y g_B(z, theta)
                  y <- y - e (grad_y f_B'(y, theta) + l grad_y g_B(y, theta))
        theta <- theta - c (grad_theta f_B' + l (grad_theta g_B(y, theta) - grad_theta g_B(z, theta)))

    z tracks y*(theta), y the minimiser of `f + l g`. The fixed point of the full-batch form is off by
    a distance of order 1 / l, which a growing l removes. The one batch B in both gradients of theta
    keeps the noise from growing with l. (In float32 the difference of the two, of order 1 / l, has a
    relative rounding error of order 1e-7 l.)

    F3SA has T = 1 and each of the five gradients corrected by recursive momentum,
    `d = G + (1 - m) (d - G before, the same batches)`, with d = G at first; all move at once.

    Args:
      inner_step_size: a; a number or an optax schedule. In theory of order 1 / step^(4/7).
      outer_step_size: c; likewise, of order 1 / step^(5/7).
      batch_size: examples a batch, drawn with replacement; None takes all.
      inner_steps: T; must be 1 with `momentum`.
      penalty: l; a number or a schedule, growing as step^(1/7) in theory.
      penalised_step_size: e; None takes a / (2 l). Below 2 / (L_f + l L_g).
      momentum: m in (0, 1], the weight of the new sample; None for F2SA.
      outer_optimizer: an optax transformation in place of c.

    Cost: a step takes 2T + 2 inner and T + 1 outer gradients and no product; F3SA 4 and 2. Memory of
    one more inner variable; F3SA of six more, and of three more outer ones.

    Rate: E|grad F|^2 below eps in O(eps^-7/2) steps; F3SA in O(eps^-5/2), if each sample is smooth.

    Source: Kwon, Kwon, Wright & Nowak 2023, algorithms 1 and 2.
    """

    inner_steps: Count = 10
    penalty: Rate = 10.0
    penalised_step_size: Rate | None = None
    momentum: Momentum | None = None

    def __post_init__(self) -> None:
        if self.momentum is not None and self.inner_steps != 1:
            raise ValueError(
                f"`inner_steps` must be 1 with `momentum` (F3SA): got {self.inner_steps}; set it to 1."
            )

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves = moves_of(self, problem)
        if self.momentum is None:
            step, name = _double_loop(self, problem, moves), "F2SA"
        else:
            step, name = _single_loop(self, problem, moves, self.momentum), "F3SA"

        def start(y0: Tree, theta0: Tree) -> F2saMemory:
            if self.momentum is None:
                return F2saMemory(y0, None, None)
            y, theta = zeros_like(y0), zeros_like(theta0)
            return F2saMemory(y0, PenaltyGradients(y, y, y, theta, theta), (y0, y0, theta0))

        return algorithm(
            self, problem, moves, step, name=name, memory=start, symmetric="SOBA, StocBiO or ITD"
        )


def _double_loop(method: F2SA, problem: Problem, moves: Moves) -> _Step:
    """F2SA: `inner_steps` of z and y, then one of theta."""
    size = method.batch_size

    def descend(s: State, batch: tuple[Array, Array]) -> tuple[State, Array]:
        """One step of z and of y."""
        inside, outside = take(problem.inner_data, batch[0]), take(problem.outer_data, batch[1])
        a, e, penalty = _rates(method, s.step)
        loss, g_z = inner_slope(problem, s.memory.z, s.theta, inside)
        f_y = outer_slopes(problem, s.y, s.theta, outside).in_y
        _, g_y = inner_slope(problem, s.y, s.theta, inside)
        y = moved(s.y, plus(f_y, g_y, penalty), e)
        memory = s.memory._replace(z=moved(s.memory.z, g_z, a))
        return s._replace(y=y, memory=memory), loss

    def step(s: State) -> tuple[State, Info]:
        steps_key, theta_key = split_key(s, 2)
        drawn = _rows_of_batches(problem, size, steps_key, method.inner_steps)
        s, losses = jax.lax.scan(descend, s, drawn)
        inside, outside = _batch(problem, size, theta_key)
        f = outer_slopes(problem, s.y, s.theta, outside)
        # One batch for both: their noise nearly cancels before the penalty multiplies it.
        at_y = theta_slope(problem, s.y, s.theta, inside)
        at_z = theta_slope(problem, s.memory.z, s.theta, inside)
        direction = plus(f.in_theta, minus(at_y, at_z), _rates(method, s.step)[2])
        said = info(losses[0], f.loss, direction, 3 * method.inner_steps + 3, 0)
        return moves.theta(s, direction), said

    return step


def _single_loop(method: F2SA, problem: Problem, moves: Moves, momentum: Momentum) -> _Step:
    """F3SA: z, y and theta move at once, along gradients with recursive momentum."""

    def step(s: State) -> tuple[State, Info]:
        (key,) = split_key(s, 1)
        here = (s.y, s.memory.z, s.theta)
        batch = _batch(problem, method.batch_size, key)
        losses, new = _penalty_gradients(problem, here, batch)
        _, old = _penalty_gradients(problem, s.memory.before, batch)
        # The gradients are carried on one by one and weighed by today's penalty. Their weighted sums
        # would hold the smaller penalties of earlier steps.
        d = storm(new, s.memory.parts, old, fresh_at_first(momentum, s.step))
        a, e, penalty = _rates(method, s.step)
        direction = plus(d.f_theta, d.g_theta, penalty)
        memory = F2saMemory(moved(s.memory.z, d.g_z, a), d, here)
        y = moved(s.y, plus(d.f_y, d.g_y, penalty), e)
        said = info(*losses, direction, 6, 0)
        return moves.theta(s, direction)._replace(y=y, memory=memory), said

    return step


def _rates(method: F2SA, t: Array) -> tuple[Any, Any, Any]:
    """(a, e, l): step sizes of z and of y, and the penalty.

    The curvature of `f + l g` grows with l, so that a step size for g alone would diverge: the
    default e shrinks as 1 / l.
    """
    a, penalty = at(method.inner_step_size, t), at(method.penalty, t)
    given = method.penalised_step_size
    return a, a / (2 * penalty) if given is None else at(given, t), penalty


def _rows_of_batches(
    problem: Problem, size: int | None, key: Array, count: int
) -> tuple[Array, Array]:
    """The rows of `count` batches of the inner and of the outer data."""
    inner_key, outer_key = jax.random.split(key)
    outside = rows(outer_key, problem.outer_data, size, count)
    return rows(inner_key, problem.inner_data, size, count), outside


def _batch(problem: Problem, size: int | None, key: Array) -> tuple[Tree, Tree]:
    inside, outside = _rows_of_batches(problem, size, key, 1)
    return take(problem.inner_data, inside[0]), take(problem.outer_data, outside[0])


def _penalty_gradients(
    problem: Problem, point: tuple[Tree, Tree, Tree], batch: tuple[Tree, Tree]
) -> tuple[tuple[Array, Array], PenaltyGradients]:
    """(inner and outer loss, gradients) at `point`, which is (y, z, theta)."""
    (y, z, theta), (inside, outside) = point, batch
    f = outer_slopes(problem, y, theta, outside)
    at_y = inner_slopes(problem, y, theta, inside)
    at_z = inner_slopes(problem, z, theta, inside)
    g_theta = minus(at_y.in_theta, at_z.in_theta)
    return (at_z.loss, f.loss), PenaltyGradients(f.in_y, at_y.in_y, at_z.in_y, f.in_theta, g_theta)
