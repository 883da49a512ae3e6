"""The one loop that runs every solver: a `Method`, one step, becomes `SolverSteps`, all of them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.derive.replay import scan
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.types import Beside, Method, SolverSteps, Tree


class Progress(NamedTuple):
    """Where a loop that may stop early stands."""

    state: Tree
    steps: Array  # [] int32, updates made
    done: Array  # [] bool: converged, or no longer finite


class Taken(NamedTuple):
    """One step, and what was found at the point where it began."""

    state: Tree  # the state handed in where that has converged
    norm: Array  # [] of the residual
    converged: Array  # [] bool; never without a tolerance
    finite: Array  # [] bool, whether the residual is
    beside: Beside | None


def as_steps(method: Method, replayed: Method, loops_on_data: bool) -> SolverSteps:
    """The loop of `method`; `replayed` is the same method with a cheaper pullback."""
    if method.tol is None:
        return SolverSteps(
            begin=method.init,
            step=lambda state, theta, x: _step(method, state, theta, x),
            replayed=lambda state, theta, x: _step(replayed, state, theta, x),
            once=lambda state, theta: method.value(_last_step(method, state, theta)),
            finish=lambda state: (method.value(state), jnp.asarray(method.num_steps, jnp.int32)),
            run=lambda y0, theta, xs: _run_all(method, y0, theta, xs),
            num_steps=method.num_steps,
            exact=True,
            loops_on_data=loops_on_data,
            descent=method.descent,
        )
    return SolverSteps(
        begin=lambda y0, theta: _begin(method.init(y0, theta)),
        step=lambda progress, theta, x: _step_unless_done(method, progress, theta, x),
        replayed=lambda progress, theta, x: _step_unless_done(replayed, progress, theta, x),
        once=lambda progress, theta: method.value(_last_step(method, progress.state, theta)),
        finish=lambda progress: (method.value(progress.state), progress.steps),
        run=lambda y0, theta, xs: _run_until_done(method, y0, theta, xs),
        num_steps=method.num_steps,
        exact=False,
        loops_on_data=loops_on_data,
        descent=method.descent,
    )


def _begin(state: Tree) -> Progress:
    # Inside `jax.shard_map` a loop's carry must vary over the same device axes before and after a step.
    start = (jnp.asarray(0, jnp.int32), jnp.asarray(False))
    return Progress(state, *vary(start, varying_axes(state)))


def _step(method: Method, state: Tree, theta: Tree, x: tuple[Array, Tree]) -> Tree:
    t, seen = x
    return method.update(state, method.evaluate(state, theta, seen).needed, theta, t, seen)


def _last_step(method: Method, state: Tree, theta: Tree) -> Tree:
    """One more step with the settings of the last one, for schedules that have no entry beyond it."""
    return _step(method, state, theta, (jnp.asarray(max(method.num_steps - 1, 0), jnp.int32), None))


def _step_unless_done(
    method: Method, progress: Progress, theta: Tree, x: tuple[Array, Tree]
) -> Progress:
    """One step, or none once the residual has reached the tolerance.

    The rules that follow the steps need a loop of fixed length. They run all `num_steps`, and the steps
    after the end change nothing.
    """
    return jax.lax.cond(
        progress.done, lambda: progress, lambda: _progressed(method, progress, theta, x)
    )


def _progressed(method: Method, progress: Progress, theta: Tree, x: tuple[Array, Tree]) -> Progress:
    taken = take_step(method, progress.state, theta, x)
    steps = progress.steps + jnp.where(taken.converged, 0, 1).astype(jnp.int32)
    done = taken.converged | ~taken.finite
    if method.stalled is not None:
        done |= method.stalled(taken.state)
    return Progress(taken.state, steps, done)


def take_step(method: Method, state: Tree, theta: Tree, x: tuple[Array, Tree]) -> Taken:
    """One step from `state`, or none where the residual there is at most the tolerance.

    With a tolerance a residual that is not finite makes the iterate NaN, so that a failed solve cannot end
    with a finite value.
    """
    t, seen = x
    tol = method.tol
    needed, residual, beside = method.evaluate(state, theta, seen)

    def move() -> Tree:
        return method.update(state, needed, theta, t, seen)

    if method.residual_norm is not None:
        moved = move()
        norm = method.residual_norm(moved)  # known only after the step
    else:
        norm = tree.quick_norm(tree.stop_gradient(residual))
        if tol is not None and not method.cheap_update:
            # A step may be expensive (Newton factorises a matrix). `cond` skips it when it is not needed.
            moved = jax.lax.cond(norm <= tol, lambda: state, move)
            return Taken(
                _nan_unless(norm, method, moved), norm, norm <= tol, jnp.isfinite(norm), beside
            )
        moved = move()
    if tol is None:
        return Taken(moved, norm, jnp.asarray(False), jnp.isfinite(norm), beside)
    moved = tree.where(norm <= tol, state, _nan_unless(norm, method, moved))
    return Taken(moved, norm, norm <= tol, jnp.isfinite(norm), beside)


def _nan_unless(norm: Array, method: Method, state: Tree) -> Tree:
    """`state`, its iterate NaN where the norm is not finite."""
    moving, whole, _ = tree.split(state)
    # Where the iterate is a leaf of the state the others are left alone: the memory of L-BFGS is 20 times as large.
    iterate = {id(leaf) for leaf in jax.tree.leaves(method.value(state))}
    if not iterate <= {id(leaf) for leaf in jax.tree.leaves(moving)}:
        return tree.merge(tree.nan_unless(jnp.isfinite(norm), moving), whole)
    spoiled = lambda leaf: (
        tree.nan_unless(jnp.isfinite(norm), leaf) if id(leaf) in iterate else leaf
    )
    return tree.merge(jax.tree.map(spoiled, moving), whole)


def _run_all(method: Method, y0: Tree, theta: Tree, xs: Tree) -> Tree:
    numbers = jnp.arange(method.num_steps, dtype=jnp.int32)
    return scan(
        lambda state, theta, x: _step(method, state, theta, x),
        method.init(y0, theta),
        theta,
        (numbers, xs),
    )


def _run_until_done(method: Method, y0: Tree, theta: Tree, xs: Tree) -> Progress:
    def unfinished(progress: Progress) -> Array:
        return ~progress.done & (progress.steps < method.num_steps)

    def advance(progress: Progress) -> Progress:
        t = progress.steps
        seen = jax.tree.map(lambda leaf: leaf[t], xs)
        return _progressed(method, progress, theta, (t, seen))

    return jax.lax.while_loop(unfinished, advance, _begin(method.init(y0, theta)))
