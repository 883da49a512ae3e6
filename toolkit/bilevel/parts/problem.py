"""What every bilevel method is given, and what it gives back."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
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
        needs no data (the batch is then None). A jitted step holds them as constants. Pass them to
        `init`, `step` and `iterate` as `data` to make them arguments of the compiled program, as
        sharded data and data over several processes must be.

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


def with_data(problem: Problem, data: Any) -> Problem:
    """The problem on other data, of the same structure where it has data of its own.

    Raises:
      ValueError: `data` is no pair, or of another structure.
    """
    # A NamedTuple of two fields is rather one data set, images and labels, than a pair of them.
    if type(data) not in (tuple, list) or len(data) != 2:
        raise ValueError(
            f"`data` must be the pair (inner_data, outer_data): got {tree.describe(data)}."
        )
    for part, name in zip(data, ("inner_data", "outer_data"), strict=True):
        own = getattr(problem, name)
        # A loss that unpacks its batch might also accept data of another structure, as the columns (x, y) of
        # one data set in place of a pair of data sets, and compute something else.
        if own is not None and jax.tree.structure(part) != jax.tree.structure(own):
            raise ValueError(
                f"`data` must be (inner_data, outer_data), each with the structure of the problem's: "
                f"got {tree.describe(part)} for `{name}`, expected {tree.describe(own)}."
            )
    return replace(problem, inner_data=data[0], outer_data=data[1])


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

    Both take `data`, the pair (inner_data, outer_data), in place of the problem's. Give both the same.
    Under `jit` data that are given are arguments of the compiled program, those of the problem are
    constants in it.

    y0 and theta0 are trees of any shapes whose floating leaves move, in their own types; other leaves
    are carried. `init` raises TypeError or ValueError for a start without floating leaves or with
    complex ones, for a key that is none, and for losses that are no real scalar. Both functions are
    plain JAX, without a derivative rule of their own. A step raises nothing where values are not finite,
    and returns them; `iterate` looks for them and raises.
    """

    init: Callable[..., Any]  # (key, y0, theta0, data=None) -> state
    step: Callable[..., tuple[Any, Info]]  # (state, data=None) -> (state, info), pure


def info(inner_loss: Array, outer_loss: Array, direction: Tree, gradients: Any, hvps: Any) -> Info:
    """An `Info`; counts may be numbers or arrays."""
    counts = (jnp.asarray(gradients, jnp.int32), jnp.asarray(hvps, jnp.int32))
    return Info(inner_loss, outer_loss, tree.norm(direction), *counts)
