"""How an iterate moves along a direction: a step size, a schedule, or an optax transformation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.types import Tree

StepSize = float | Array | Callable[[Array], Array]  # a number, or an optax schedule of the step


class Mover(NamedTuple):
    """`y, state = move(y, direction, state, t)`, descending."""

    init: Callable[[Tree], Any]
    move: Callable[[Tree, Tree, Any, Array], tuple[Tree, Any]]


def mover(step_size: StepSize, optimizer: optax.GradientTransformation | None = None) -> Mover:
    """By the optax transformation where there is one, else by the step size."""
    if optimizer is not None:
        return _by_optax(optimizer)
    return Mover(
        lambda y: None,
        lambda y, direction, state, t: (moved(y, direction, at(step_size, t)), state),
    )


def at(step_size: StepSize, t: Array) -> Array | float:
    """The step size of step `t`."""
    return step_size(t) if callable(step_size) else step_size


def moved(y: Tree, direction: Tree, step_size: Any) -> Tree:
    """`y - step_size * direction`, in the types of `y`; other leaves as they are."""
    parts = tree.split(y)
    new = jax.tree.map(
        lambda leaf, d: (leaf - step_size * d).astype(leaf.dtype), parts.inexact, direction
    )
    return tree.merge(new, *parts[1:])


def _by_optax(optimizer: optax.GradientTransformation) -> Mover:
    def move(y: Tree, direction: Tree, state: Any, t: Array) -> tuple[Tree, Any]:
        parts = tree.split(y)
        updates, state = optimizer.update(direction, state, parts.inexact)
        return tree.merge(optax.apply_updates(parts.inexact, updates), *parts[1:]), state

    return Mover(lambda y: optimizer.init(tree.split(y).inexact), move)


def require_settings(settings: Any) -> None:
    """The checks of what every method has: step sizes, batch size, and counts where there are any."""
    for name in ("inner_step_size", "outer_step_size", "linear_step_size"):
        value = getattr(settings, name)
        if value is not None or name != "linear_step_size":
            require_step_size(name, value)
    if settings.batch_size is not None:
        require_count("batch_size", settings.batch_size)
    for name, least in (("inner_steps", 1), ("linear_steps", 0)):
        if hasattr(settings, name):
            require_count(name, getattr(settings, name), least)


def require_step_size(name: str, value: Any) -> None:
    """Refuse a step size that is neither a positive number, an array [] nor a schedule."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if callable(value) or (number and value > 0):
        return
    if number or jnp.shape(value) != () or not isinstance(value, Array):
        raise ValueError(
            f"`{name}` must be a positive number, or an optax schedule (step -> number): got {value!r}."
        )


def require_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse a count that is no int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be an int of at least {least}: got {value!r}.")
