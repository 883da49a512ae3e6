"""Steps whose size a line search finds: those of `step_size=None`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.derive.composite import gradient_step
from toolkit.derive.remembered import constant, only_if
from toolkit.leaves.promotion import standard_promotion
from toolkit.solver.backtracking import Found, Seen, Sight, backtrack, real_type, sight, start
from toolkit.types import Beside, Evaluation, InnerProblem, Method, Proximal, Tree

Prox = Callable[[Tree, Tree, Array], Tree]  # (z, theta, s)
Move = Callable[[Tree, Tree, Tree, Array], Tree]  # (z, gradient, theta, s) -> y


# The step size by which a residual is defined where those of the steps are searched.
UNIT = lambda theta: jnp.asarray(1.0)


class Splitting(NamedTuple):
    """What is minimised: the function of `problem`, plus one that has a proximal map."""

    problem: InnerProblem
    prox: Prox | None  # None: there is no second function
    num_steps: int
    tol: float | None

    def move(self, z: Tree, gradient: Tree, theta: Tree, s: Array) -> Tree:
        """One proximal gradient step from z."""
        there = gradient_step(z, gradient, s)
        return there if self.prox is None else self.prox(there, theta, s)


class SearchState(NamedTuple):
    """The iterate, and what is known there."""

    y: Tree
    step_size: Array  # [] of the next trial
    seen: Seen  # the function at y
    stale: Array  # [] bool: `seen` is not known yet, or is another function's
    residual: Array | None  # [] at the iterate before; None where the gradient is the residual


def searched_steps(solver: object, split: Splitting) -> Method:
    """Proximal gradient steps, each with a step size that is searched."""
    problem, prox = split.problem, split.prox
    look = sight(solver, problem)

    def init(y0: Tree, theta: Tree) -> SearchState:
        size, seen = start(y0)
        residual = None if prox is None else jnp.zeros_like(tree.norm(y0))
        return SearchState(y0, size, seen, jnp.asarray(True), residual)

    def evaluate(state: SearchState, theta: Tree, x: Tree) -> Evaluation:
        here = look_at(look, state, theta, x)
        return Evaluation(here, here.gradient if prox is None else None, Beside(here.value))

    @standard_promotion  # a tree may mix types
    def update(state: SearchState, here: Seen, theta: Tree, t: Array, x: Tree) -> SearchState:
        size = state.step_size
        found = search(split.move, look, state.y, here, theta, x, size, keeps_gradient=True)
        y = arrived(split.move, found, state.y, here, theta, otherwise=state.y)
        seen, size = after_search(found, here, size)
        residual = None if prox is None else unit_residual(split, state.y, here.gradient, theta)
        return SearchState(y, size, seen, state.stale & False, residual)

    def forget(state: SearchState, stale: Array) -> SearchState:
        return state._replace(stale=state.stale | stale)

    return Method(
        init,
        evaluate,
        update,
        lambda state: state.y,
        split.num_steps,
        split.tol,
        proximal=None if prox is None else Proximal(UNIT, prox),
        residual_norm=None if prox is None else lambda state: state.residual,
        forget=forget,
    )


def look_at(look: Sight, state: Any, theta: Tree, x: Tree) -> Seen:
    """The function at the iterate of a state with `y`, `seen` and `stale`; evaluated where that is not known."""

    def known(state: Any, theta: Tree, x: Tree) -> Seen:
        def fresh() -> Seen:
            value, gradient = look.seen(state.y, theta, x)
            return Seen(value.astype(state.seen.value.dtype), gradient)

        # With per-step inputs what the last trial saw belongs to the function of the step before.
        return only_if(state.stale, fresh, state.seen) if x is None else fresh()

    return look.recalled(constant(known, state, theta, x), state.y, theta, x)


def search(
    move: Move,
    look: Sight,
    z: Tree,
    here: Seen,
    theta: Tree,
    x: Tree,
    step_size: Array,
    keeps_gradient: bool,
) -> Found:
    """The step from z that the line search accepts; without derivative."""

    def run(z: Tree, here: Seen, theta: Tree, x: Tree, step_size: Array) -> Found:
        step = lambda s: move(z, here.gradient, theta, s)
        return backtrack(look, (z, theta, x), here, step_size, step, keeps_gradient)

    return constant(run, z, here, theta, x, step_size)


def arrived(move: Move, found: Found, z: Tree, here: Seen, theta: Tree, otherwise: Tree) -> Tree:
    """Where the search ended, with the derivative of the step from z; `otherwise` where it accepted nothing."""
    known = tree.where(found.accepted, found.y, otherwise)
    known = tree.nan_unless(~jnp.isnan(here.value), known)
    step = move(z, here.gradient, theta, found.step_size)
    return tree.graft(known, tree.where(found.accepted, step, otherwise))


def after_search(found: Found, here: Seen, step_size: Array) -> tuple[Seen, Array]:
    """What is known where the search ended, and the step size that the next one tries first."""
    seen = tree.where(found.accepted, Seen(found.value, found.gradient), tree.stop_gradient(here))
    size = jnp.where(found.judged, found.step_size, step_size)
    return seen, jnp.where(found.easy, doubled(size), size)


def unit_residual(split: Splitting, z: Tree, gradient: Tree, theta: Tree) -> Array:
    """[] `|z - prox(z - grad)|`, for all step sizes the same; without derivative."""
    unit = split.move(z, gradient, theta, jnp.ones((), real_type(z)))
    return tree.norm(tree.stop_gradient(jax.tree.map(jnp.subtract, z, unit)))


def doubled(size: Array) -> Array:
    """Twice the step size, unless that is no number of its type."""
    return jnp.where(jnp.isfinite(2 * size), 2 * size, size)
