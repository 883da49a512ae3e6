"""Proximal gradient steps of given sizes, also in the geometry of a potential."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.derive.composite import gradient_step
from toolkit.solver.requirements import require_broadcast
from toolkit.solver.schedules import at_step
from toolkit.types import Evaluation, InnerProblem, Method, Proximal, Tree


class ProximalState(NamedTuple):
    """The iterate, and how far from a solution the one before was."""

    y: Tree
    residual: Array  # [] ||y_before - y|| / step_size, without derivative


def proximal_steps(
    problem: InnerProblem,
    prox: Callable[[Tree, Tree, Array], Tree],
    step_size: Any,
    max_steps: int,
    tol: float | None,
    mirror: Callable[[Tree, Tree], Tree] | None = None,
) -> Method:
    """`y <- prox(mirror(y) - s grad, theta, s)`, on `problem`, an argmin.

    Args:
      prox: `(z, theta, s) -> tree like z`, theta as solvers see it.
      step_size: a setting, as a user gives it.
      mirror: `(y, theta) -> tree like y`; None for y itself.
    """

    def init(y0: Tree, theta: Tree) -> ProximalState:
        # No step has been made yet: the largest residual meets no tolerance.
        norm = tree.norm(y0)
        return ProximalState(y0, jnp.full_like(norm, jnp.finfo(norm.dtype).max))

    def evaluate(state: ProximalState, theta: Tree, x: Tree) -> Evaluation:
        gradient, beside = problem.look(state.y, theta, x)
        return Evaluation(gradient, None, beside)

    def size(theta: Tree, t: Array) -> Array:
        return jnp.asarray(at_step("step_size", step_size, problem.user_theta(theta), t))

    def update(
        state: ProximalState, gradient: Tree, theta: Tree, t: Array, x: Tree
    ) -> ProximalState:
        s = size(theta, t)
        require_broadcast("step_size", s, state.y)
        begin = state.y if mirror is None else mirror(state.y, theta)
        y = prox(gradient_step(begin, gradient, s), theta, s)
        # How far the step moved is known only after it, so the residual is kept in the state.
        move = tree.stop_gradient(jax.tree.map(lambda a, b: (a - b) / s, state.y, y))
        return ProximalState(y, tree.norm(move).astype(state.residual.dtype))

    last = max(max_steps - 1, 0)
    return Method(
        init,
        evaluate,
        update,
        lambda s: s.y,
        max_steps,
        tol,
        proximal=Proximal(
            lambda theta: size(theta, jnp.asarray(last, jnp.int32)), prox, mirror=mirror
        ),
        residual_norm=lambda s: s.residual,
    )


def returned_like(name: str, z: Tree, out: Tree) -> Tree:
    """The floating leaves of what the function `name` returned, checked against its argument."""
    got = tree.split(out).inexact
    describe = lambda t: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), t)
    if jax.tree.structure(got) != jax.tree.structure(z) or describe(got) != describe(z):
        raise ValueError(
            f"`{name}` must return a tree like its first argument: got {tree.describe(out)}, expected "
            f"{tree.describe(z)}."
        )
    return got
