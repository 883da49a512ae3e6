"""How an iterate moves along a direction: a step size, a schedule, or an optax transformation."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Callable
from numbers import Integral, Real
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


def power_decay(constant: float, exponent: float) -> Callable[[Array], Array]:
    """The schedule `constant / (step + 1)^exponent`, steps counted from 0: that of most theorems.

    A negative exponent grows, as the penalty of `F2SA` must.
    """
    return lambda step: constant / (step + 1.0) ** exponent


def storm(new: Tree, direction: Tree, old: Tree, weight: Any) -> Tree:
    """Recursive momentum: `new + (1 - weight) (direction - old)`, `new` and `old` of one sample.

    Weight 0 is SARAH's difference, weight 1 the sample. Source: Cutkosky & Orabona 2019, equation 2.
    """
    return jax.tree.map(
        lambda n, d, o: (n + (1 - weight) * (d - o)).astype(n.dtype), new, direction, old
    )


def fresh_at_first(momentum: StepSize, t: Array) -> Array:
    """The weight of `storm` at step `t`: 1 at step 0, where there is nothing to remember."""
    return jnp.where(t == 0, 1.0, at(momentum, t))


COUNTS = {"inner_steps": 1, "linear_steps": 0, "directions": 1, "period": 1}  # at least
MAY_BE_ZERO = ("virtual_step_size",)
POSITIVE = ("radius", "control", "decay", "tol")


def require_settings(settings: Any) -> None:
    """The checks of what the methods have in common, by the names of the fields."""
    for field in dataclasses.fields(settings):
        name, value = field.name, getattr(settings, field.name)
        if (value is None and field.default is None) or (name in MAY_BE_ZERO and is_zero(value)):
            continue
        if name.endswith("step_size") or name == "penalty":
            require_step_size(name, value)
        elif name == "batch_size" or name in COUNTS:
            require_count(name, value, COUNTS.get(name, 1))
        elif name == "momentum":
            require_momentum(value)
        elif name in POSITIVE:
            require_positive(name, value)
        elif name.endswith("optimizer"):
            require_optimizer(name, value)


def require_step_size(name: str, value: Any) -> None:
    """Refuse a step size that is neither a positive number, an array [] nor a schedule."""
    if callable(value) or (isinstance(value, Array) and value.shape == ()):
        return
    if not _is_positive(value):
        raise ValueError(
            f"`{name}` must be a positive number, or an optax schedule (step -> number): got {reprlib.repr(value)}."
        )


def require_positive(name: str, value: Any) -> None:
    """Refuse what is no positive finite number."""
    if not _is_positive(value):
        raise ValueError(f"`{name}` must be a positive number: got {reprlib.repr(value)}.")


def require_optimizer(name: str, value: Any) -> None:
    """Refuse what is no optax transformation, above all its maker not called."""
    if not (hasattr(value, "init") and hasattr(value, "update")):
        raise TypeError(
            f"`{name}` must be an optax transformation, such as optax.adam(1e-3): got "
            f"{reprlib.repr(value)}."
        )


def require_momentum(value: Any) -> None:
    """Refuse a weight of the new sample outside (0, 1]."""
    require_step_size("momentum", value)
    if isinstance(value, Real) and float(value) > 1:
        raise ValueError(f"`momentum` must be in (0, 1]: got {reprlib.repr(value)}.")


def require_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse a count that is no int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"`{name}` must be an int of at least {least}: got {reprlib.repr(value)}.")


def is_zero(value: Any) -> bool:
    """Whether it is the number 0, known before running."""
    return isinstance(value, Real) and not isinstance(value, bool) and value == 0


def _is_positive(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf
