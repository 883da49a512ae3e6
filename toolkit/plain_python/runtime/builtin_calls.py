"""Python's builtins on traced values: `max`, `min`, `any`, `all`, and `in`.

`max(a, b)` asks Python for the truth of `b > a`. `flow.extreme(max, a, b)` computes a `where` if that
is traced. A user's own function that is called `max` is called as it is.
"""

from __future__ import annotations

import builtins
import datetime
from typing import Any

import jax.numpy as jnp
import numpy as np

from toolkit.plain_python import mode
from toolkit.plain_python.carried.surroundings import NOTHING, Surroundings
from toolkit.plain_python.carried.typed_arrays import holds, is_traced
from toolkit.plain_python.refusals import refuse
from toolkit.plain_python.runtime.arithmetic import as_python_bool
from toolkit.plain_python.staging.truth import truth
from toolkit.plain_python.tracing.blocks import observed
from toolkit.plain_python.tracing.intervals import together
from toolkit.plain_python.tracing.known_intervals import known_of, note


def extreme(function: Any, *args: Any, **kwargs: Any) -> Any:
    """`max` and `min` of scalars, compared two by two from the left, as Python does."""
    if function not in (builtins.max, builtins.min) or kwargs:
        return function(*args, **kwargs)
    scalars = args if len(args) > 1 else args[0]
    # Other arguments, arrays of more dimensions too, go to Python, which gives its own error.
    traced = isinstance(scalars, (list, tuple)) and any(map(is_traced, scalars))
    if not traced or any(np.shape(scalar) != () for scalar in scalars):
        return function(*args)
    best, *others = scalars
    for other in others:
        better = other > best if function is builtins.max else other < best
        known = together((known_of(other), known_of(best)))
        chosen = jnp.where(better, *_joined(other, best))
        best = note(as_python_bool(chosen, other, best), known)
    return best


def _joined(a: Any, b: Any) -> tuple[Any, Any]:
    """Two scalars of which one is chosen: an integer must not be rounded to the type of a float."""
    dtype = jnp.result_type(a, b)
    for one in (a, b):
        if not holds(dtype, one):
            raise refuse(
                f"{one} cannot be a {dtype}, as the other arguments of `max` or `min` are."
            )
    return a, b


def any_of(function: Any, *args: Any, around: Surroundings = NOTHING) -> Any:
    """`any` of an array, or of an iterable that Python goes through."""
    return _any_or_all(function, builtins.any, True, args, around)


def all_of(function: Any, *args: Any, around: Surroundings = NOTHING) -> Any:
    """`all` of an array, or of an iterable that Python goes through."""
    return _any_or_all(function, builtins.all, False, args, around)


def _any_or_all(
    function: Any, ours: Any, stop_at: bool, args: tuple[Any, ...], around: Surroundings
) -> Any:
    """`any` or `all`.

    Args:
      stop_at: the truth that decides it, True for `any` and False for `all`.
      around: what the function can see. Python makes no further item after the one that decides.
    """
    if function is not ours or len(args) != 1:
        return function(*args)
    if is_traced(args[0]) and args[0].ndim == 1:
        return jnp.any(args[0]) if stop_at else jnp.all(args[0])
    # A known value that decides ends the search, as in Python. The truths of traced ones are combined.
    items = iter(args[0])
    found: Any = not stop_at
    for value in items:
        found = truth(value)
        if found is stop_at:
            return stop_at
        if is_traced(found):
            break
    if not is_traced(found):
        return found
    with observed(around, conditional=True, loop=False):
        for value in items:
            known = truth(value)
            found = found | known if stop_at else found & known
            if known is stop_at:
                break
    return found


def contains(left: Any, right: Any) -> Any:
    """`left in right`; in a tuple or a list, `left` is compared with each element."""
    if not isinstance(right, (tuple, list)):
        return left in right
    if not (is_traced(left) or any(map(is_traced, right))):
        return left in right
    return any_of(builtins.any, [one is left or one == left for one in right])


def outside(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A call that asks a clock, the user or the system, or writes a file, if it has such a name."""
    if mode.is_staged() and _is_outside(function, args, kwargs):
        name = getattr(function, "__qualname__", "it")
        raise refuse(
            f"`{name}(...)` inside a staged loop or condition would happen once, at trace time: call it "
            "before or after, use jax.debug.callback, or run the loop as Python with tk.control.unroll."
        )
    return function(*args, **kwargs)


def _is_outside(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if function is builtins.open:
        asked = args[1] if len(args) > 1 else kwargs.get("mode", "r")
        return any(letter in str(asked) for letter in "wax+")
    if function is builtins.input:
        return True
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type):
        return issubclass(owner, datetime.date)  # `datetime.now`
    return getattr(function, "__module__", None) in ("time", "posix", "nt", "uuid", "secrets")
