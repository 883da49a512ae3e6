"""A minimum of `fun + g`, g known by its proximal map only, or within bounds, as a root that can be differentiated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from toolkit import tree
from toolkit.types import Box, Composite, InnerProblem, Proximal, Tree


def composite_problem(smooth: InnerProblem, proximal: Proximal | Box) -> InnerProblem:
    """`argmin fun + g` as the root of the prox-gradient mapping.

    `G(y) = (y - prox(y - s grad fun(y))) / s`, the gradient where there is no g; of mirror descent
    `(y - projection(mirror(y) - s grad fun(y))) / s`. Its zeros do not depend on the step size s: no derivative
    passes through that.

    Source: Parikh & Boyd 2014, section 4.2; mirror descent: Blondel et al. 2022, table 1.
    """
    evaluate = (
        _in_box(smooth, proximal) if isinstance(proximal, Box) else _mapping(smooth, proximal)
    )
    return dataclasses.replace(
        smooth,
        kind="root",
        evaluate=evaluate,
        objective=None,
        composite=Composite(smooth, proximal),
        loops_on_data=smooth.loops_on_data or getattr(proximal, "loops_on_data", False),
    )


def _in_box(smooth: InnerProblem, box: Box) -> Callable[[Tree, Tree, Tree], Tree]:
    return lambda y, theta, x: box.cut(y, smooth.evaluate(y, theta, x), theta)


def _mapping(smooth: InnerProblem, proximal: Proximal) -> Callable[[Tree, Tree, Tree], Tree]:
    def mapping(y: Tree, theta: Tree, x: Tree) -> Tree:
        # The zeros are the same for every s, so at a zero the derivative with respect to s is 0. An
        # approximate solution is only near a zero: there it is not 0, an error that must not be passed on.
        s = tree.stop_gradient(proximal.step_size(theta))
        new = proximal.prox(descended(smooth, proximal, y, theta, x, s), theta, s)
        return jax.tree.map(lambda a, b: ((a - b) / s).astype(a.dtype), y, new)

    return mapping


def descended(
    smooth: InnerProblem, proximal: Proximal, y: Tree, theta: Tree, x: Tree, s: Tree
) -> Tree:
    """Where a gradient step ends, before the proximal map."""
    begin = y if proximal.mirror is None else proximal.mirror(y, theta)
    return gradient_step(begin, smooth.evaluate(y, theta, x), s)


def gradient_step(y: Tree, gradient: Tree, s: Tree) -> Tree:
    """`y - s * gradient`, in the types of `y`."""
    return jax.tree.map(lambda a, g: (a - s * g).astype(a.dtype), y, gradient)
