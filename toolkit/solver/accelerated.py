"""Accelerated steps: Nesterov's method, and FISTA where there is a proximal map."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.derive.remembered import constant
from toolkit.leaves.promotion import standard_promotion
from toolkit.solver.backtracking import Found, Seen, sight, start
from toolkit.solver.requirements import require_broadcast
from toolkit.solver.schedules import at_step
from toolkit.solver.searched import UNIT, Splitting, arrived, doubled, search, unit_residual
from toolkit.types import Descent, Evaluation, Method, Proximal, Tree


class Searching(NamedTuple):
    """What a line search keeps between steps."""

    step_size: Array  # [] of the next trial
    patience: Array  # [] easy steps between one growth and the next, floating
    wait: Array  # [] how many of them are still to come


class AheadState(NamedTuple):
    """The iterate, and the point ahead of it from which the next step goes."""

    y: Tree
    ahead: Tree  # z; y itself where the momentum starts
    weight: Array  # [] t of FISTA
    residual: Array  # [] at the iterate before, or a bound of it; without derivative
    search: Searching | None  # None: the step sizes are given


class Step(NamedTuple):
    """One step from z."""

    y: Tree
    step_size: Any  # number, or an array that broadcasts to the leaves
    size: Array  # the step size that the residual is measured with
    residual: Array  # [] at z
    found: Found | None


def accelerated_steps(solver: object, split: Splitting, size: Any, restart: bool) -> Method:
    """`y' = prox(z - s grad fun(z))`, then `z = y' + (t - 1) / t' (y' - y)` with `t' = (1 + sqrt(1 + 4 t^2)) / 2`.

    The momentum starts anew, with t = 1 and z = y', where it points uphill: `<(z - y') / s, y' - y> > 0`. It also
    does where the residual at z is at most `tol`: the next step then begins at y itself, finds the residual there,
    and ends the loop.

    Where s grows from one step to the next, `s' (t'^2 - t') = s t^2` keeps the rate of FISTA. But momentum along the
    flat directions makes long steps look easy, and each that is rejected costs speed: so a search waits for
    some easy steps before it tries a longer one, twice as many after each rejection.

    Args:
      size: the `step_size` of the settings; None: a line search.
      restart: whether the momentum starts anew at all before the end.

    Source: Beck & Teboulle 2009, equations 4.1 to 4.3; O'Donoghue & Candes 2015, section 3.2 (gradient scheme);
    Scheinberg, Goldfarb & Bai 2014, section 3 (growing sizes).
    """
    problem, prox = split.problem, split.prox
    look = sight(solver, problem) if size is None else None

    def step_size(theta: Tree, t: Array) -> Array:
        return jnp.asarray(at_step("step_size", size, problem.user_theta(theta), t))

    def init(y0: Tree, theta: Tree) -> AheadState:
        norm = tree.norm(y0)
        one, zero = jnp.ones_like(norm), jnp.zeros_like(norm)
        searching = None if look is None else Searching(start(y0)[0], one, zero)
        return AheadState(y0, y0, one, zero, searching)

    def evaluate(state: AheadState, theta: Tree, x: Tree) -> Evaluation:
        # What is seen ahead of y is no report on y: so there is nothing beside it.
        if look is None:
            return Evaluation(problem.evaluate(state.ahead, theta, x), None)
        here = constant(look.seen, state.ahead, theta, x)
        return Evaluation(look.recalled(here, state.ahead, theta, x), None)

    def given(state: AheadState, gradient: Tree, theta: Tree, t: Array) -> Step:
        z, s = state.ahead, step_size(theta, t)
        require_broadcast("step_size", s, z)
        y = split.move(z, gradient, theta, s)
        residual = gradient if prox is None else jax.tree.map(lambda a, b: (a - b) / s, z, y)
        return Step(y, s, s, tree.norm(tree.stop_gradient(residual)), None)

    def searched(state: AheadState, here: Seen, theta: Tree, x: Tree) -> Step:
        z, before = state.ahead, state.search
        assert look is not None and before is not None  # those of step_size=None
        found = search(split.move, look, z, here, theta, x, before.step_size, keeps_gradient=False)
        y, s = arrived(split.move, found, z, here, theta, otherwise=state.y), found.step_size
        if prox is None:
            return Step(y, s, s, tree.norm(tree.stop_gradient(here.gradient)), found)
        return Step(y, s, jnp.minimum(s, 1), unit_residual(split, z, here.gradient, theta), found)

    @standard_promotion  # a tree may mix types
    def update(state: AheadState, needed: Tree, theta: Tree, t: Array, x: Tree) -> AheadState:
        if look is None:
            step = given(state, needed, theta, t)
        else:
            step = searched(state, needed, theta, x)
        forward = optax.tree.sub(step.y, state.y)
        # At z = y the residual is that of y. Elsewhere the gradient step is nonexpansive, which bounds that of y.
        way = tree.norm(tree.stop_gradient(_over(step.size, state.y, state.ahead)))
        residual = (step.residual + 2 * way).astype(state.residual.dtype)
        anew = _points_uphill(step, state.ahead, forward) if restart else jnp.asarray(False)
        if split.tol is not None:
            anew |= step.residual <= split.tol
        ratio, searching = 1, None
        if step.found is not None and state.search is not None:
            anew |= ~step.found.accepted
            searching = _next_search(state.search, step.found, anew)
            ratio = step.step_size / searching.step_size
        weight = (1 + jnp.sqrt(1 + 4 * ratio * state.weight**2)) / 2
        weight = jnp.where(anew, 1, weight).astype(state.weight.dtype)
        ahead = tree.add_scaled(step.y, jnp.where(anew, 0, (state.weight - 1) / weight), forward)
        return AheadState(step.y, ahead, weight, residual, searching)

    descent = proximal = None
    if prox is not None:
        last = jnp.asarray(max(split.num_steps - 1, 0), jnp.int32)
        at_end = UNIT if look is not None else lambda theta: step_size(theta, last)
        proximal = Proximal(at_end, prox)
    elif look is None:
        descent = Descent(lambda theta, t: (step_size(theta, t), 0.0), None, accelerated=True)
    return Method(
        init,
        evaluate,
        update,
        lambda state: state.y,
        split.num_steps,
        split.tol,
        descent,
        proximal,
        lambda state: state.residual,
    )


def _over(s: Any, a: Tree, b: Tree) -> Tree:
    # A schedule may have a step of size 0, which moves nothing.
    return jax.tree.map(lambda a, b: tree.safe_divide(a - b, s), a, b)


def _points_uphill(step: Step, z: Tree, forward: Tree) -> Array:
    slope = tree.stop_gradient(_over(step.step_size, z, step.y))
    return jnp.real(tree.vdot(slope, tree.stop_gradient(forward))) > 0


def _next_search(before: Searching, found: Found, anew: Array) -> Searching:
    rejected = found.trials > 1
    size = jnp.where(found.judged, found.step_size, before.step_size)
    patience = jnp.where(rejected, 2 * before.patience, before.patience)
    wait = jnp.where(rejected, patience, before.wait - found.easy)
    grows = found.easy & ~rejected & (anew | (wait <= 0))
    return Searching(
        jnp.where(grows, doubled(size), size), patience, jnp.where(grows, patience, wait)
    )
