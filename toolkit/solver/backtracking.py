"""Backtracking: the step size of `step_size=None`, found by the function itself.

A step from z to `y = prox(z - s g)`, g the gradient at z, is accepted where the quadratic model of curvature
1 / s lies above the function there:

    f(y) <= f(z) + <g, y - z> + |y - z|^2 / 2s.

Else s is halved. An accepted step that would also have passed with 2 s lets the next one start from there.

All sizes are 1 times a power of two, so s does not change where the problem changes a little: the derivative of
a step with its s held constant is the derivative of the step. Nothing is differentiated through the search.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.derive import marks
from toolkit.derive.remembered import only_if, remembered
from toolkit.jaxprs.lift import traced_once
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.leaves.promotion import standard_promotion, wide_type
from toolkit.solver.requirements import require_objective
from toolkit.types import InnerProblem, Tree

_MOST = 60  # trials of one search: 2^-60 times the first
_SHORTEST = 16  # roundings of the start: below them a step is too short for any test


class Seen(NamedTuple):
    """The function at a point."""

    value: Array  # []
    gradient: Tree


class Found(NamedTuple):
    """Where a search ended; without derivative."""

    y: Tree
    value: Array  # [] at y
    gradient: Tree  # at y; None where the search had no use for it
    step_size: Array  # [] of the last trial
    accepted: Array  # [] bool; else no trial was
    judged: Array  # [] bool: the step was long enough for the test
    easy: Array  # [] bool: a step twice as long would have passed, as far as the curvature tells
    trials: Array  # [] int32


class Sight(NamedTuple):
    """How a problem is looked at."""

    seen: Callable[[Tree, Tree, Tree], Seen]  # (y, theta, x), in one evaluation
    value: Callable[[Tree, Tree, Tree], Array]
    recalled: Callable[..., Seen]  # (seen, y, theta, x) -> seen, with its derivative


def sight(solver: object, problem: InnerProblem) -> Sight:
    """The function of an argmin and its gradient, for a search; refuses a function without values to compare."""
    objective = require_objective(solver, problem)

    def both(y: Tree, theta: Tree, x: Tree) -> tuple[Array, Tree]:
        # A function with a rule of its own is traced when it is differentiated, and may hold a solve.
        with marks.at(problem.depth + 1):
            value, slope = jax.value_and_grad(objective)(y, theta, x)
        return value, tree.conj(slope)

    once, _ = traced_once(both)
    value_of = remembered(lambda y, theta, x: objective(y, theta, x).astype(_wide(y)))
    gradient_of = remembered(problem.evaluate)
    if problem.reverse_only:
        # `remembered` pushes tangents through its function. Only reverse passes come here, which need its value.
        gradient_of = lambda known, *at: tree.graft(known, problem.evaluate(*at))

    def seen(y: Tree, theta: Tree, x: Tree) -> Seen:
        return Seen(*once(y, theta, x))

    def recalled(known: Seen, y: Tree, theta: Tree, x: Tree) -> Seen:
        value = value_of(known.value.astype(_wide(y)), y, theta, x)
        return Seen(value, gradient_of(known.gradient, y, theta, x))

    return Sight(seen, objective, recalled)


def start(y: Tree) -> tuple[Array, Seen]:
    """The step size of the first trial of a solve, and a place for what will be seen at `y`."""
    size = jnp.ones((), real_type(y))
    return size, Seen(jnp.zeros((), _wide(y)), jax.tree.map(jnp.zeros_like, y))


@standard_promotion
def real_type(y: Tree) -> Any:
    """The real type that the leaves have in common, without which a small type would not be kept."""
    return jnp.result_type(*(leaf.real.dtype for leaf in jax.tree.leaves(y)))


def _wide(y: Tree) -> Any:
    """The type in which values are compared: float32 at least."""
    return wide_type(*(leaf.real for leaf in jax.tree.leaves(y)))


@standard_promotion
def backtrack(
    look: Sight,
    at: tuple[Tree, Tree, Tree],
    here: Seen,
    step_size: Array,
    move: Callable[[Array], Tree],
    keeps_gradient: bool,
) -> Found:
    """The first step size among `step_size`, `step_size / 2`, ... that the test accepts.

    Close to a solution the values differ by less than their rounding. There the test compares gradients: for a
    quadratic function `<g(y) - g, y - z> = 2 (f(y) - f(z) - <g, y - z>)`. A step shorter than the rounding of z is
    accepted as it is.

    Args:
      at: (z, theta, x).
      here: the function at z.
      move: step size -> y.
      keeps_gradient: whether the gradient at y is wanted; then each trial computes it with the value.

    Source: Beck & Teboulle 2009, section 4 (backtracking); Becker, Candes & Grant 2011, section 5.3 (the two
    forms of the test).
    """
    z, theta, x = at
    shortest = _SHORTEST * tree.eps(z) * tree.norm(z)

    def attempt(before: Found) -> Found:
        s = jnp.where(before.trials == 0, step_size, before.step_size / 2)
        y = move(s)
        d = optax.tree.sub(y, z)
        if keeps_gradient:
            value, gradient = look.seen(y, theta, x)
        else:
            value, gradient = look.value(y, theta, x), None
        slack = max(tree.eps(z), float(jnp.finfo(value.dtype).eps)) ** 0.5
        value = value.astype(here.value.dtype)
        gap = value - here.value
        rounded = jnp.abs(gap) <= slack * jnp.maximum(jnp.abs(value), jnp.abs(here.value))
        by_values = 2 * (gap - _inner(here.gradient, d).astype(gap.dtype))

        def by_gradients() -> Array:
            there = look.seen(y, theta, x).gradient if gradient is None else gradient
            return _inner(optax.tree.sub(there, here.gradient), d).astype(gap.dtype)

        other = by_gradients() if keeps_gradient else only_if(rounded, by_gradients, by_values)
        bend, length = jnp.where(rounded, other, by_values), tree.norm(d)
        most = (1 + slack) * length * (length / s)
        judged = length > shortest
        accepted = jnp.isfinite(value) & ((bend <= most) | ~judged)
        easy = judged & (2 * bend <= most)
        return Found(y, value, gradient, s, accepted, judged, easy, before.trials + 1)

    def unfinished(found: Found) -> Array:
        return ~found.accepted & (found.trials < _MOST) & ~jnp.isnan(here.value)

    no = jnp.asarray(False)
    gradient = here.gradient if keeps_gradient else None
    none = Found(z, here.value, gradient, step_size, no, no, no, jnp.asarray(0, jnp.int32))
    none = vary(none, varying_axes((none, jax.eval_shape(move, step_size))))
    return jax.lax.while_loop(unfinished, attempt, none)


def _inner(a: Tree, b: Tree) -> Array:
    """`Re <a, b>`."""
    return jnp.real(tree.vdot(a, b))
