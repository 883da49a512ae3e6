"""What the user's function returns, checked, as arrays."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from toolkit import tree
from toolkit.errors.readable import call_as, returned_by
from toolkit.leaves.containers import packed
from toolkit.leaves.module_variables import call_unchanged
from toolkit.solve.call import Fun, Operands
from toolkit.solve.without_steps import check_same
from toolkit.types import Asked, Tree

# The names of the arguments of `flat_function`'s function, for JAX's messages.
_NAMES = inspect.Signature(
    [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for name in ("y", "operands", "x")
    ]
)


class Returns(NamedTuple):
    """The form of what the user's function returns."""

    has_aux: bool = False  # (value, aux)
    value_and_grad: bool = False  # (value, gradient), or ((value, aux), gradient)

    def aux(self, fun: Fun, out: Any) -> Any:
        """The aux of what `fun` returned."""
        return self.parted(fun, out)[1]

    def parted(self, fun: Fun, out: Any) -> tuple[Any, Any, Any]:
        """(value, aux, gradient) of what `fun` returned; None for what it does not return."""
        aux = gradient = None
        if self.value_and_grad:
            first = "(value, aux)" if self.has_aux else "value"
            out, gradient = _pair(fun, out, f"({first}, gradient) with value_and_grad=True")
        if self.has_aux:
            out, aux = _pair(fun, out, "a pair (value, aux) with has_aux=True")
        return out, aux, gradient


class Returned(NamedTuple):
    """What it returned, as arrays."""

    result: Tree  # the scalar of an argmin, the residuals of a sum of squares, or the floating leaves of an equation
    aux: Tree = None  # numeric leaves, where a step by hand asks for them
    gradient: Tree = None  # like y, where the function returns it


def flat_function(
    kind: Asked,
    fun: Fun,
    returns: Returns,
    like_y: Tree,
    user_y: Callable[[Tree, Operands], Tree],
    user_theta: Callable[[Operands], Tree],
    *,
    takes_x: bool,
    keep_aux: Callable[[Any], Tree] | None = None,
) -> Fun:
    """`fun` of partitioned arguments, `(y, operands, x) -> Returned`.

    Args:
      like_y: what a gradient must be like.
      keep_aux: makes numeric leaves of the user's aux; None drops the aux.
    """
    expected = "(y, theta, x)" if takes_x else "(y, theta)"
    gradient_like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like_y)

    def flat(y: Tree, operands: Operands, x: Tree) -> Returned:
        args = (user_y(y, operands), user_theta(operands), *([packed(x)] if takes_x else []))
        call = functools.partial(call_as, "fun", fun, expected)
        if returns.has_aux:
            out = call(*args)
        else:
            remedy = ", or return what is changed as aux, with has_aux=True"
            out = call_unchanged("fun", call, *args, remedy=remedy)
        value, aux, gradient = returns.parted(fun, out)
        if returns.value_and_grad:
            gradient = _gradient(fun, gradient, gradient_like)
        kept = None if keep_aux is None else keep_aux(aux)
        if kind == "argmin":
            return Returned(_one_array(fun, value), kept, gradient)
        if kind == "least_squares":
            return Returned(_residuals(fun, value), kept)
        return Returned(_like_y(fun, value, args[0], y), kept)

    # Without these two JAX's messages would name `flat` and `args[0]['w']`. With them they name the
    # user's function and `y['w']`.
    flat.__signature__, flat.__wrapped__ = _NAMES, fun  # type: ignore[attr-defined]
    return flat


def check_scalar(fun: Fun, shape: Any) -> None:
    """Refuse an objective of another shape or type than a real scalar's."""
    # Checked on the traced shape, not inside `flat`: holomorphic nudging calls `flat` at complex `y`,
    # where it has to return a complex number.
    if shape.shape != () or not jnp.issubdtype(shape.dtype, jnp.floating):
        raise _not_scalar(fun, shape)


def _pair(fun: Fun, out: Any, what: str) -> Any:
    if isinstance(out, tuple) and len(out) == 2:
        return out
    raise returned_by(fun, ValueError(f"`fun` must return {what}: got {tree.describe(out)}."))


def _gradient(fun: Fun, gradient: Tree, like: Tree) -> Tree:
    """The floating leaves of a gradient that the user has computed, checked against `y`."""
    # JAX gives an integer leaf of y a gradient without bits.
    without = lambda leaf: None if getattr(leaf, "dtype", None) == jax.dtypes.float0 else leaf
    got = tree.parts(jax.tree.map(without, gradient)).inexact
    check_same("the gradient that `fun` returns", got, like, gradient, fun)
    return got


def _like_y(fun: Fun, out: Tree, user_y: Tree, y: Tree) -> Tree:
    """The floating leaves of what a root or a map returned, checked against `y`."""
    parts = tree.parts(out)
    if jax.tree.structure(out) != jax.tree.structure(user_y):
        raise returned_by(
            fun,
            ValueError(
                f"`fun` must return a tree like `y`: got {tree.describe(out)}, expected "
                f"{tree.describe(user_y)}."
            ),
        )
    check_same("the result of `fun`", parts.inexact, y, out, fun)
    return parts.inexact


def _residuals(fun: Fun, out: Tree) -> Tree:
    """What is squared and summed up; refused where it is nothing to square."""
    leaves = jax.tree.leaves(out)
    if leaves and all(map(tree.is_inexact, leaves)):
        return out
    raise returned_by(
        fun,
        ValueError(
            "`residuals` must return floating or complex arrays, whose squares are summed: got "
            f"{tree.describe(out)}."
        ),
    )


def _one_array(fun: Fun, out: Any) -> Any:
    if not tree.is_numeric(out):
        raise _not_scalar(fun, out)
    return out


def _not_scalar(fun: Fun, out: Any) -> ValueError:
    return returned_by(
        fun,
        ValueError(
            f"`fun` must return a real scalar under argmin: got {tree.describe(out)}; "
            "for (value, aux) pass has_aux=True, for a function to be zeroed use tk.root."
        ),
    )
