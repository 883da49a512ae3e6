"""How one variable moves down a direction: by a step size, a schedule, or an optax transformation."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import optax
from jax import Array

from toolkit import tree
from toolkit.errors.readable import call_as
from toolkit.optimizers import built
from toolkit.types import Tree

StepSize = float | Array | Callable[[Array], Array]  # a number, or an optax schedule of the step


class Mover(NamedTuple):
    """`y, state = move(y, direction, state, t)`, descending."""

    init: Callable[[Tree], Any]
    move: Callable[[Tree, Tree, Any, Array], tuple[Tree, Any]]


def mover(step_size: StepSize, optimizer: optax.GradientTransformation | None = None) -> Mover:
    """Moves by the optax transformation where there is one, else by the step size."""
    if optimizer is not None:
        return _by_optax(built(optimizer))
    return Mover(
        lambda y: None,
        lambda y, direction, state, t: (moved(y, direction, at(step_size, t)), state),
    )


def at(step_size: StepSize, t: Array) -> Array | float:
    """The step size of step `t`."""
    if not callable(step_size):
        return step_size
    return call_as("step_size", step_size, "(step), as optax's schedules do", t)


def moved(y: Tree, direction: Tree, step_size: Any) -> Tree:
    """`y - step_size * direction`, in the types of `y`; leaves without derivative stay as they are."""
    parts = tree.parts(y)
    return tree.whole(tree.add_scaled(parts.inexact, -step_size, direction), *parts[1:])


def _by_optax(optimizer: optax.GradientTransformation) -> Mover:
    def move(y: Tree, direction: Tree, state: Any, t: Array) -> tuple[Tree, Any]:
        # optax does arithmetic on every leaf that it is given: integers and names are kept from it.
        parts = tree.parts(y)
        updates, state = optimizer.update(direction, state, parts.inexact)
        return tree.whole(optax.apply_updates(parts.inexact, updates), *parts[1:]), state

    return Mover(lambda y: optimizer.init(tree.parts(y).inexact), move)


def is_zero(value: Any) -> bool:
    """Whether it is the Python number 0; an array is not, for its value may be unknown while tracing."""
    return isinstance(value, Real) and value == 0
