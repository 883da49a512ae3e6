"""What every estimator takes and returns, and the checks that they share.

An estimator is a settings object. Called with a loss it gives `(theta, key) -> Estimate`, or, for a loss
over a long unroll, the pair `(init, step)` of `unrolled.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.errors.readable import call_as, returned_by
from toolkit.leaves.containers import packed
from toolkit.leaves.module_variables import call_unchanged
from toolkit.types import Tree

Loss = Callable[[Tree], Array]  # theta -> [] real


class Estimate(NamedTuple):
    """A loss and its gradient, as an estimator sees them."""

    value: Array  # []
    gradient: Tree  # like theta; None at the leaves that are carried (integers, keys, strings, ...)


class Estimator(Protocol):
    """A derivative rule of a loss.

    The key decides every random number: the same key gives the same bits. Rules that draw none
    ignore it, so that one word moves a program between all of them.
    """

    def __call__(self, loss: Any) -> Callable[[Tree, Array], Estimate]: ...


def of_inexact(loss: Loss, theta: Tree) -> tuple[Loss, Tree]:
    """`loss` as a checked function of the floating and complex leaves of `theta`, and those leaves."""
    parts = tree.parts(theta)
    return lambda inexact: loss_value(loss, rejoin(parts, inexact)), parts.inexact


def rejoin(parts: tree.Parts, inexact: Tree) -> Tree:
    """The tree that was split into `parts`, with other floating and complex leaves."""
    return tree.whole(inexact, parts.arrays, parts.static)


def loss_value(loss: Loss, theta: Tree) -> Array:
    """`loss(theta)` as an array; refused where it is not one real number."""
    call = functools.partial(call_as, "loss", loss, "(theta)")
    return real_scalar(call_unchanged("loss", call, theta), loss)


def real_scalar(loss: Any, by: Any) -> Array:
    """`loss`, returned `by` a function, as an array. Raises: ValueError where it is not one real number."""
    if not _is_real(loss) or jnp.shape(loss):
        raise returned_by(
            by,
            ValueError(
                f"`loss` must return one real floating number: got {tree.describe(loss)}; "
                "take a mean, or `.real`."
            ),
        )
    return jnp.asarray(loss)


def real_losses(losses: Any) -> Array:
    """`losses` as an array `[]` or `[B]`. Raises: ValueError where it is neither, or not real."""
    if not _is_real(losses) or jnp.ndim(losses) > 1:
        raise ValueError(
            "`loss` must return real floating numbers, [] or one an example [B]: "
            f"got {tree.describe(losses)}."
        )
    return jnp.asarray(losses)


def _is_real(leaf: Any) -> bool:
    return tree.is_inexact(leaf) and not jnp.iscomplexobj(leaf)


def as_gradient(like: Tree, sum_of_directions: Tree) -> Tree:
    """A mean of weighted directions as a gradient, in the types of `like`.

    For complex leaves the conjugate: `dL = Re(gradient . dtheta)`, so that descent goes along
    `conj(gradient)`, as after `jax.grad`.
    """
    return packed(
        jax.tree.map(
            lambda leaf, moved: moved.astype(leaf.dtype), like, tree.conj(sum_of_directions)
        )
    )


def require_divisor(name: str, value: int | None, whole_name: str, whole: int) -> None:
    """Refuse a number that does not divide `whole`, which is called `whole_name`; None is all at once."""
    if value is not None and whole % value:
        raise ValueError(f"`{name}` must divide `{whole_name}`: got {value} and {whole}.")
