"""A minimum under constraints, as a root that can be differentiated: the conditions of Karush, Kuhn and Tucker."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.derive.composite import composite_problem
from toolkit.leaves.promotion import standard_promotion
from toolkit.types import Box, InnerProblem, Tree

Constraints = Callable[[Tree, Tree], tuple[Tree, Tree]]


class WithMultipliers(NamedTuple):
    """The unknown of these conditions, or a tree like it."""

    y: Tree
    equality: Tree  # like what is zero
    inequality: Tree  # like what is at most zero; nonnegative


class Multipliers(NamedTuple):
    """The multipliers of a solution; None where there are no such constraints. The last two are like `y`."""

    equality: Tree
    inequality: Tree
    lower: Tree
    upper: Tree


def constrained_problem(
    problem: InnerProblem, constraints: Constraints, bounds: Box | None
) -> InnerProblem:
    """`argmin` of `problem` with `E = 0`, `G <= 0` and bounds, as a root in `(y, nu, lambda)`.

        L = f + <nu, E> + <lambda, G>
        cut(y, dL/dy) = 0,  E = 0,  max(G, -lambda) = 0

    with `cut(y, g) = y - clip(y - g)`. The last one is zero where `G <= 0`, `lambda >= 0` and one of both is 0.
    Its norm is the residual: no multiplier of a bound is needed.

    Source: Nocedal & Wright 2006, theorem 12.1; Facchinei & Pang 2003, section 1.5.8.
    """

    def evaluate(z: WithMultipliers, theta: Tree, x: Tree) -> WithMultipliers:
        values, pull = jax.vjp(lambda y: constraints(y, theta), z.y)
        (pushed,) = pull((z.equality, z.inequality))
        slope = tree.add_scaled(problem.evaluate(z.y, theta, x), 1, pushed)
        return WithMultipliers(slope, *values)

    @standard_promotion
    def lagrangian(z: WithMultipliers, theta: Tree, x: Tree) -> Array:
        assert problem.objective is not None  # constraints are those of an argmin
        equality, inequality = constraints(z.y, theta)
        forces = tree.pairing(z.equality, equality) + tree.pairing(z.inequality, inequality)
        return problem.objective(z.y, theta, x) + forces

    def cut(z: WithMultipliers, slope: WithMultipliers, theta: Tree) -> WithMultipliers:
        y = slope.y if bounds is None else bounds.cut(z.y, slope.y, theta)
        # Where both are 0 the constraint counts as active.
        larger = lambda value, force: jnp.where(value < -force, -force, value)
        return WithMultipliers(
            y, slope.equality, jax.tree.map(larger, slope.inequality, z.inequality)
        )

    smooth = dataclasses.replace(
        problem,
        evaluate=evaluate,
        objective=lagrangian,
        user_y=lambda z, theta: problem.user_y(z.y, theta),
        observe=None,
        residuals=None,
    )
    return composite_problem(smooth, Box(cut))


def multipliers(
    problem: InnerProblem, z: WithMultipliers, theta: Tree, has_bounds: bool
) -> Multipliers:
    """All multipliers at a solution of `constrained_problem`; those of bounds are what is left of dL/dy."""
    equality, inequality = (part if jax.tree.leaves(part) else None for part in z[1:])
    if not has_bounds:
        return Multipliers(equality, inequality, None, None)
    composite = problem.composite
    assert composite is not None and isinstance(composite.proximal, Box)
    slope = composite.smooth.evaluate(z, theta, None)
    free = composite.proximal.cut(z, slope, theta).y
    forces = jax.tree.map(jnp.subtract, slope.y, free)
    return Multipliers(
        equality,
        inequality,
        jax.tree.map(lambda force: jnp.maximum(force, 0), forces),
        jax.tree.map(lambda force: jnp.maximum(-force, 0), forces),
    )
