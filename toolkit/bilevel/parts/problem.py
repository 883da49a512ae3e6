"""What every bilevel method is given, and what it gives back."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.errors.readable import readable
from toolkit.types import Tree

BatchLoss = Callable[[Tree, Tree, Any], Array]  # (y, theta, batch) -> scalar mean loss


@dataclass(frozen=True, eq=False)
class Problem:
    """`min_theta outer(y*(theta), theta)` with `y*(theta) = argmin_y inner(y, theta)`, by examples.

    Args:
      inner, outer: `(y, theta, batch) -> real scalar`, the mean loss over the batch; the problem is
        that of the mean over all examples. The stated rates need `inner` strongly convex in y.
      inner_data, outer_data: trees whose leaves share a leading example axis; None where the loss
        needs no data (the batch is then None).

    Raises:
      TypeError: a loss is not callable, or does not take three arguments.
      ValueError: the leaves of a data tree share no leading axis.
    """

    inner: BatchLoss
    outer: BatchLoss
    inner_data: Tree = None
    outer_data: Tree = None

    @readable
    def __post_init__(self) -> None:
        for name in ("inner", "outer"):
            if not callable(getattr(self, name)):
                raise TypeError(f"`{name}` must be callable: got {getattr(self, name)!r}.")
            _require_three_arguments(name, getattr(self, name))
            data = getattr(self, f"{name}_data")
            sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
            if len(sizes) > 1 or any(size in ((), (0,)) for size in sizes):
                raise ValueError(
                    f"`{name}_data` must have leaves that share a leading example axis of at least "
                    f"one: got {tree.describe(data)}."
                )


def _require_three_arguments(name: str, loss: BatchLoss) -> None:
    try:
        signature = inspect.signature(loss)
    except (TypeError, ValueError):  # some builtins have none
        return
    try:
        signature.bind(None, None, None)
    except TypeError:
        raise TypeError(f"`{name}` must take (y, theta, batch): got {signature}.") from None


class Info(NamedTuple):
    """What a step reports; arrays []."""

    inner_loss: Array  # on a batch, at the point of the step's first inner gradient
    outer_loss: Array  # on a batch, at the point of the step's outer gradient
    gradient_norm: Array  # 2-norm of the direction along which theta moved
    gradient_evals: Array  # int32; gradients of a batch loss
    hvp_evals: Array  # int32; products of a batch with d2/dydy or d2/dthetady


class Algorithm(NamedTuple):
    """A method on a problem: `init, step = SOBA(0.1, 0.1)(problem)`.

    y0 and theta0 are trees of any shapes whose floating leaves move, in their own types; other leaves
    are carried. `init` raises TypeError or ValueError for a start without floating leaves or with
    complex ones, for a key that is none, and for losses that are no real scalar. Both functions are
    plain JAX, without a derivative rule of their own. A step raises nothing where values are not finite,
    and returns them; `iterate` looks for them and raises.
    """

    init: Callable[[Array, Tree, Tree], Any]  # (key, y0, theta0) -> state
    step: Callable[[Any], tuple[Any, Info]]  # state -> (state, info), pure


def info(inner_loss: Array, outer_loss: Array, direction: Tree, gradients: Any, hvps: Any) -> Info:
    """An `Info`; counts may be numbers or arrays."""
    counts = (jnp.asarray(gradients, jnp.int32), jnp.asarray(hvps, jnp.int32))
    return Info(inner_loss, outer_loss, tree.norm(direction), *counts)
