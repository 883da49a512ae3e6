"""Bounds on the inner variable, as several solvers take them: hyperparameters, a box that a solution lies in."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from toolkit import tree
from toolkit.array_arguments import spread
from toolkit.errors.readable import call_as, returned_by
from toolkit.leaves.containers import unpacked
from toolkit.types import Box, InnerProblem, Tree
from toolkit.vocabulary.kinds import Given


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2


Bounds = Annotated[
    Any,
    Given(
        "a pair (lower, upper), or a callable theta -> (lower, upper)",
        fits=lambda value: not isinstance(value, type) and (callable(value) or _is_pair(value)),
    ),
]


class Limits(NamedTuple):
    """Bounds of every entry: trees with the structure, shapes and dtypes of `y`."""

    lower: Tree
    upper: Tree


def limits(bounds: Any, problem: InnerProblem, y: Tree, theta: Tree) -> Limits:
    """The `bounds` of a solver for the leaves of `y`.

    Args:
      bounds: `(lower, upper)`, each a number, an array that broadcasts to every leaf of `y`, or a tree of such
        with the structure of the user's `y0` (what stands in the place of a leaf that is not solved for is not
        read); `-jnp.inf` and `jnp.inf` for no bound. Or a callable, which returns such a pair from the user's
        `theta`. May hold traced arrays.
      y, theta: as solvers see them.

    Raises:
      ValueError: a pair of another form or shape; complex leaves of `y`, which have no order.
    """
    if any(map(jnp.iscomplexobj, jax.tree.leaves(y))):
        raise ValueError(
            f"`y0` must be real where a solver has `bounds`: got {tree.describe(y)}; solve for its real and "
            "imaginary parts."
        )
    pair = bounds
    if callable(bounds):
        pair = call_as("bounds", bounds, "(theta)", problem.user_theta(theta))
        if not _is_pair(pair):
            raise returned_by(
                bounds,
                ValueError(
                    f"`bounds` must return a pair (lower, upper) from theta: got {tree.describe(pair)}."
                ),
            )
    return Limits(_one("bounds[0]", pair[0], y), _one("bounds[1]", pair[1], y))


def _one(name: str, bound: Any, y: Tree) -> Tree:
    is_none = lambda leaf: leaf is None
    bound, moves = unpacked(bound), tree.present(y)
    if jax.tree.structure(bound, is_leaf=is_none) == jax.tree.structure(moves):
        bound, _ = tree.select(bound, moves)
    found = spread(name, bound, y)
    if any(map(jnp.iscomplexobj, jax.tree.leaves(found))):
        raise ValueError(f"`{name}` must be real: got {tree.describe(bound)}.")
    # Rounded to the type of `y`: a point on the bound then compares equal to it.
    typed = jax.tree.map(
        lambda b, leaf: jnp.broadcast_to(b.astype(leaf.dtype), leaf.shape), found, y
    )
    return tree.spread(typed, tree.specs(y))


def clip(y: Tree, limits: Limits) -> Tree:
    """The nearest point within the limits; NaN everywhere if one lower limit is above its upper one.

    Differentiation: of an entry outside its limits it is that of the limit, else that of `y`.
    """
    return _within(y, limits)


def optimality(y: Tree, gradient: Tree, limits: Limits) -> Tree:
    """`y - clip(y - gradient)`: zero where no feasible direction leads downhill.

    Computed as the gradient, cut off by the ways to the limits: the difference of two points would be rounded to
    the digits of `y`, and a small gradient would be lost.
    """
    back = jax.tree.map(jnp.subtract, y, limits.upper)
    ahead = jax.tree.map(jnp.subtract, y, limits.lower)
    return _within(gradient, Limits(back, ahead))


def _within(y: Tree, limits: Limits) -> Tree:
    from toolkit.projection import box  # not above: a run without bounds loads no projections

    return box(y, limits)


def bounded(bounds: Any, problem: InnerProblem) -> Box:
    """The part of a solver's `bounds` in the optimality condition that adjoints see.

    So a derivative follows a bound where that is active, and the free face elsewhere.
    """

    def cut(y: Tree, gradient: Tree, theta: Tree) -> Tree:
        return optimality(y, gradient, limits(bounds, problem, y, theta))

    return Box(cut)
