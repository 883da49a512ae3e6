"""Reading variables that may have no value, and setting items of arrays, which cannot change in place.

`flow.read(y, "y")` raises if `y` has no value. `x = flow.set_item(x, (i,), v, "x")` is `x[i] = v`.
"""

from __future__ import annotations

import builtins
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.plain_python import mode
from toolkit.plain_python.carried.lists import ListRecorder, StackedList
from toolkit.plain_python.carried.typed_arrays import is_traced
from toolkit.plain_python.carried.undefined import Undefined, UndefinedRead
from toolkit.plain_python.refusals import here, refuse


def read(value: Any, name: str) -> Any:
    """The value of a variable where Python reads it."""
    kind = type(value)
    if kind is Undefined:
        raise UndefinedRead.of(value, name)
    if kind is StackedList:
        return value.as_list()
    if kind is ListRecorder:
        raise value.refuse_reading()
    return value


def kept(value: Any, name: str) -> Any:
    """The value of a variable where a `break` leaves a loop; it may have none there."""
    if isinstance(value, Undefined) and not value.reason:
        line = here().line
        return Undefined(name, f"it may not be assigned before the `break` at line {line}")
    return value


def augmentable(value: Any, name: str) -> Any:
    """The value of a variable before `name += ...`, if that may happen in a staged block.

    `+=` makes a new JAX array or number, but changes a NumPy array or another object in place.
    """
    if isinstance(value, StackedList):
        return value.as_list()
    if isinstance(value, ListRecorder):
        return value
    if isinstance(value, np.ndarray) and mode.is_staged():
        raise _refuse_numpy(name)
    known = isinstance(value, (jax.Array, np.generic, list, Undefined))
    if mode.is_staged() and not known and hasattr(type(value), "__iadd__"):
        raise refuse(
            f"`{name}` is a {type(value).__name__} that would change in place, once, at trace time: "
            "use a number, an array, or a list."
        )
    return read(value, name)


def _refuse_numpy(name: str) -> Exception:
    return refuse(
        f"`{name}` is a NumPy array that would change in place inside a staged block: make it a JAX "
        f"array before, `{name} = jnp.asarray({name})`."
    )


def item_at(value: Any, path: tuple[Any, ...]) -> Any:
    """`value[path[0]][path[1]]...`."""
    for index in path:
        value = value[index]
    return value


def set_item(value: Any, path: tuple[Any, ...], new: Any, name: str, given: bool = False) -> Any:
    """`value[path[0]]... = new`: the array with the item set, or the container that was changed.

    `given`: whether `value` is a parameter of an inner function that does not return it. In Python the
    caller's array would change, and a new array does not reach the caller.
    """
    value = read(value, name)
    index, *rest = path
    # `d["w"][i] = v`: the array `d["w"]` is replaced in the dict `d`, which changes in place.
    if rest:
        inner = value[index]
        changed = set_item(inner, tuple(rest), new, f"{name}[...]")
        if changed is not inner:
            value = set_item(value, (index,), changed, name)
        return value
    if isinstance(value, jax.Array):
        if given:
            raise refuse(
                f"`{name}[...] = ...` would not reach the array of the caller: return `{name}` from "
                "this function and assign what it returns."
            )
        _check_bounds(value, index, name)
        # `x[mask] = number`: `x.at[mask]` needs a known mask, and `where` does not.
        if _is_mask(index, value) and np.ndim(new) == 0:
            return jnp.where(index, jnp.asarray(new, value.dtype), value)
        return value.at[index].set(new)
    staged_now = mode.is_staged() or is_traced(new) or is_traced(index)
    if isinstance(value, np.ndarray) and staged_now:
        raise _refuse_numpy(name)
    if mode.is_staged() and not isinstance(value, (list, dict)):
        raise refuse(
            f"`{name}[...] = ...` on a {type(value).__name__} inside a staged loop or condition would "
            "happen once, at trace time: use an array, a list or a dict."
        )
    value[index] = new
    return value


def set_item_elsewhere(value: Any, path: tuple[Any, ...], new: Any, name: str) -> None:
    """`value[...] = new` where `value` is not a variable of this function, as in `self.w[i] = v`."""
    if mode.is_staged():
        raise refuse(
            f"`{name}[...] = ...` inside a staged loop or condition changes what belongs elsewhere, "
            f"once, at trace time: use a local variable, and assign `{name}` after."
        )
    if set_item(value, path, new, name) is not value:
        raise refuse(
            f"`{name}[...] = ...`: a JAX array does not change in place: write "
            f"`{name} = {name}.at[...].set(...)`."
        )


def _is_mask(index: Any, value: Any) -> bool:
    return getattr(index, "dtype", None) == jnp.bool_ and np.shape(index) == value.shape != ()


def _check_bounds(array: Any, index: Any, name: str) -> None:
    """Raise IndexError for a known index outside the array; JAX would silently drop the write."""
    # An array as index, `None` and `...` stand for no axis or several. The axes of later indices are
    # then not known here, so nothing more is checked.
    axes = index if isinstance(index, tuple) else (index,)
    if any(one is None or one is Ellipsis for one in axes):
        return
    for axis, one in enumerate(axes):
        known = isinstance(one, (int, np.integer)) and not isinstance(one, bool)
        if not known:
            if not isinstance(one, slice):
                return
            continue
        if axis < array.ndim and not -array.shape[axis] <= one < array.shape[axis]:
            raise IndexError(
                f"index {one} is out of bounds for axis {axis} of `{name}` with size "
                f"{array.shape[axis]}"
            )


def slice_(*ends: Any) -> builtins.slice:
    """`lower:upper:step`, which is syntax only between brackets."""
    return builtins.slice(*ends)
