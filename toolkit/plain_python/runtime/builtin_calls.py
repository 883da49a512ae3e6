"""Python's builtins and operators on traced values: `max`, `any`, `in`, `isinstance`, `str`, `**`.

`max(a, b)` asks Python for the truth of `b > a`. `flow.extreme(max, a, b)` computes a `where` if that
is traced. A user's own function that is called `max` is called as it is.
"""

from __future__ import annotations

import builtins
import datetime
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.plain_python import mode
from toolkit.plain_python.carried.surroundings import NOTHING, Surroundings
from toolkit.plain_python.carried.typed_arrays import is_traced
from toolkit.plain_python.refusals import refuse
from toolkit.plain_python.staging.truth import truth
from toolkit.plain_python.tracing.blocks import observed


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
        best = jnp.where(better, other, best)
    return best


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


def isinstance_(function: Any, value: Any, kinds: Any) -> Any:
    """`isinstance`, refused for a Python number that a loop has made a tracer: it would be False."""
    if function is builtins.isinstance and is_traced(value) and mode.is_staged():
        asked = kinds if isinstance(kinds, tuple) else (kinds,)
        if value.weak_type and any(kind in (int, float, complex, bool) for kind in asked):
            raise refuse(
                f"`isinstance(..., {kinds})` of a Python number that became a traced value in this "
                "staged block: ask before the loop, or run it as Python with tk.control.unroll."
            )
    return function(value, kinds)


def text(function: Any, *args: Any) -> Any:
    """`str`, `repr` and `format`."""
    return function(*map(shown, args))


def shown(value: Any) -> Any:
    """A value that becomes text, which a traced one cannot inside a staged block."""
    if is_traced(value) and mode.is_staged():
        raise refuse(
            "a traced value has no text: to print it use jax.debug.print; for a key such as "
            'params[f"w{i}"] run the loop as Python, `for i in tk.control.unroll(range(n))`.'
        )
    return value


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


def power(base: Any, exponent: Any) -> Any:
    """`base ** exponent`."""
    if is_traced(base) and base.weak_type and isinstance(exponent, int) and exponent < 0:
        return (1.0 * base) ** exponent  # `2 ** -1` is 0.5 in Python; JAX refuses it for integers
    # If both are integers of Python's (a traced one is weakly typed), the power may overflow where
    # Python's would not. Only such a power has to be found again by `tracing.integers`.
    if not isinstance(base, int) or isinstance(base, bool) or not is_traced(exponent):
        return base**exponent
    if not (exponent.weak_type and jnp.issubdtype(exponent.dtype, jnp.integer)):
        return base**exponent
    return python_power(base, exponent)


@jax.jit
def python_power(base: Any, exponent: Any) -> Any:
    """`base ** exponent` of Python integers.

    `jit` keeps it in the jaxpr as one call, which `tracing.integers` finds by the name of this
    function. Else JAX writes it out as repeated squaring, and a square that no result uses would
    look like an overflow.
    """
    return base**exponent
