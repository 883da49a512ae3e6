"""Calls on lists that a staged loop grows, inside the loop and after it.

`flow.mutator(ys, "append", "ys", True)(v)` records `v` inside the loop. `flow.call_on_list(jnp.stack,
ys, "ys")` after it returns the loop's stacked output as it is.
"""

from __future__ import annotations

import builtins
import operator
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.control.loop import loop
from toolkit.plain_python import mode
from toolkit.plain_python.carried.lists import ListRecorder, StackedList, last_item
from toolkit.plain_python.carried.undefined import Undefined, UndefinedRead
from toolkit.plain_python.refusals import refuse
from toolkit.plain_python.runtime.builtin_calls import all_of, any_of, extreme
from toolkit.plain_python.runtime.variables_and_items import read


def mutator(value: Any, method: str, name: str, own: bool) -> Any:
    """`value.method`, for a method that changes a list, dict, set or deque in place.

    `own`: whether `value` is a variable of this function, or lies in one.
    """
    if isinstance(value, Undefined):
        raise UndefinedRead.of(value, name)
    if isinstance(value, ListRecorder):
        if method not in ("append", "extend"):
            raise refuse(
                f"`{name}.{method}` inside a staged loop that appends to `{name}`: only append and "
                "extend are possible there."
            )
        return getattr(value, method)
    if isinstance(value, StackedList):
        value = value.as_list()
    if not own and mode.is_staged() and isinstance(value, (list, dict, set, deque)):
        raise refuse(
            f"`{name}.{method}` inside a staged loop or condition changes what belongs elsewhere, "
            "once, at trace time: use a local variable of this function."
        )
    if own and mode.is_staged() and isinstance(value, (set, deque)):
        raise refuse(
            f"`{name}.{method}`: a {type(value).__name__} cannot change inside a staged loop or "
            "condition: use a list or an array."
        )
    return getattr(value, method)


# Each of these makes one array of a list of equal arrays, which the loop's output is already.
_STACKS = (jnp.stack, jnp.array, jnp.asarray, np.stack, np.array, np.asarray)


def call_on_list(function: Any, value: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """`function(value, ...)` where `value` may be a list that a staged loop has grown."""
    if not isinstance(value, StackedList):
        return function(read(value, name), *args, **kwargs)
    if function is builtins.len:
        return len(value)
    # Items of one type are one array already. Other functions, and other arguments (`axis=1`), get a list.
    arrays = value.arrays()
    if arrays is not None and isinstance(arrays, jax.Array) and not args and not kwargs:
        if any(function is one for one in _STACKS):
            return arrays
        if function is builtins.sum:
            return loop(lambda total, x: (total + x, None), *_sum_start(arrays))[0]
        if (function is builtins.max or function is builtins.min) and arrays.ndim == 1:
            return loop(_better(function), arrays[0], arrays[1:])[0]
    builtin = {"max": extreme, "min": extreme, "any": any_of, "all": all_of}.get(
        getattr(function, "__name__", "")
    )
    return (partial(builtin, function) if builtin else function)(value.as_list(), *args, **kwargs)


def _better(function: Any) -> Any:
    # Python compares from the left: of equal items it keeps the first, and NaN is kept only if it is first.
    wins = operator.gt if function is builtins.max else operator.lt
    return lambda best, x: (jnp.where(wins(x, best), x, best), None)


def _sum_start(arrays: Any) -> tuple[Any, Any]:
    # Python's `sum` begins with 0 and adds from the left. The same order gives the same rounding.
    return 0 + arrays[0], arrays[1:]


def item_of_list(value: Any, index: Any, name: str) -> Any:
    """`value[index]`."""
    if isinstance(value, StackedList) and isinstance(index, int):
        return value.item(index)
    if isinstance(value, ListRecorder) and isinstance(index, int) and index == -1:
        last = last_item(value)
        if last:
            return last[0]
    return read(value, name)[index]


def iterated_list(value: Any, name: str) -> Any:
    """A list that a `for` goes over; a grown list stays arrays, so that the loop can be staged."""
    return (
        value
        if isinstance(value, StackedList) and value.arrays() is not None
        else read(value, name)
    )


def iterated(value: Any, name: str) -> Any:
    """What a `for` goes over. Inside a staged block an iterator is refused."""
    if mode.is_staged() and isinstance(value, Iterator):
        raise _refuse_iterator(name)
    return value


def next_(function: Any, *args: Any) -> Any:
    """`next`, which is refused inside a staged block."""
    if function is builtins.next and mode.is_staged():
        raise _refuse_iterator("next(...)")
    return function(*args)


def _refuse_iterator(name: str) -> Exception:
    return refuse(
        f"`{name}`: an iterator inside a staged loop or condition would move on once, at trace time: "
        "go over a list or an array, or index an array with the loop variable."
    )
