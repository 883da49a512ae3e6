"""Python's operators on values that may be traced.

A weakly typed scalar stands for a number of Python's: `True + True` is 2 in Python, while the sum of two
booleans of JAX is a logical or.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.jaxprs.hidden import converted
from toolkit.plain_python import mode
from toolkit.plain_python.carried.typed_arrays import (
    fitting,
    holds,
    is_python_number,
    is_traced,
    type_text,
)
from toolkit.plain_python.refusals import refuse
from toolkit.plain_python.runtime.texts import shown
from toolkit.plain_python.tracing.intervals import IntegerInterval, NotAsInPython
from toolkit.plain_python.tracing.known_intervals import known_of, note
from toolkit.plain_python.tracing.unlike_python import OPERATORS, check_fits

_BITWISE = ("and_", "or_", "xor", "iand", "ior", "ixor")


def binary(name: str, apply: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    """`a + b` and the like, and what `a += b` assigns.

    Args:
      name: that of the function in `operator`.
      apply: `lambda a, b: a + b`.
    """
    if name in ("mod", "imod") and isinstance(a, (str, bytes)):
        return apply(a, shown(b))
    if not isinstance(a, jax.Array) and not isinstance(b, jax.Array):
        # `+=` changes a list in place.
        return apply(a, b) if name[0] != "i" else getattr(operator, name)(a, b)
    a, b = fitting(a), fitting(b)
    if isinstance(a, list):
        return getattr(operator, name)(a, b)
    bits = name in _BITWISE
    if not bits and not (_is_arrays_bool(a) or _is_arrays_bool(b)):
        a, b = as_number(a), as_number(b)
    made = _power(apply, a, b) if name in ("pow", "ipow") else apply(a, b)
    return _followed(
        name if name == "invert" else name.removeprefix("i"),
        as_python_bool(made, a, b) if bits else made,
        a,
        b,
    )


def unary(name: str, apply: Callable[[Any], Any], a: Any) -> Any:
    """`-a`, `+a` and `~a`."""
    a = as_number(a)
    return _followed(name, apply(a), a)


def compared(apply: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    """`a < b` and the like, for its value: Python's bool if both are Python's numbers."""
    return as_python_bool(holds_for(apply, a, b), a, b)


def holds_for(apply: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    """`a < b` and the like, for its truth alone."""
    for one, other in ((a, b), (b, a)):
        # JAX rounds the integer to the type of the float, and Python compares the two exactly.
        rounds = is_traced(other) and jnp.issubdtype(other.dtype, jnp.floating)
        if rounds and isinstance(one, int) and not holds(other.dtype, one):
            raise refuse(f"{one} is compared with a {type_text(other)}, which cannot hold it.")
    return apply(a, b)


def python_bool(value: Any) -> Any:
    """A truth that Python's `not`, `in`, `any` or `all` has found."""
    return as_python_bool(value, True)


def as_python_bool(value: Any, *made_of: Any) -> Any:
    """A traced truth, weakly typed if it is made of Python's numbers alone."""
    if not is_traced(value) or value.dtype != jnp.bool_ or value.shape != () or value.weak_type:
        return value
    return converted(value, jnp.bool_, True) if all(map(is_pythons, made_of)) else value


def is_pythons(value: Any) -> bool:
    """Whether this is a number of Python's, or a traced one that stands for it."""
    if isinstance(value, jax.Array):
        return value.weak_type and value.shape == ()
    return is_python_number(value)


def as_number(value: Any) -> Any:
    """A value to compute with: True is 1."""
    if not isinstance(value, jax.Array) or value.dtype != jnp.bool_ or not is_pythons(value):
        return value
    number = converted(value, jax.dtypes.canonicalize_dtype(int), True)
    return note(number, IntegerInterval(0, 1))


def _is_arrays_bool(value: Any) -> bool:
    # A bool of JAX or NumPy adds as a logical or, also to a bool of Python's.
    return getattr(value, "dtype", None) == jnp.bool_ and not is_pythons(value)


def numeric(function: Any, *args: Any, **kwargs: Any) -> Any:
    """`abs`, `divmod`, `pow`, `round` and `sum`."""
    if function is sum and len(args) in (1, 2) and not kwargs:
        total = args[1] if len(args) == 2 else 0
        for value in args[0]:
            total = binary("add", operator.add, total, value)
        return total
    if function not in (abs, divmod, pow, round) or not any(map(is_traced, args)):
        return function(*args, **kwargs)
    args = tuple(map(as_number, args))
    if function is abs:
        return _followed("abs", function(*args), *args)
    if function is divmod:
        quotient, rest = function(*args)
        return _followed("floordiv", quotient, *args), _followed("mod", rest, *args)
    if function is pow:
        if len(args) != 2 or kwargs:
            raise refuse("`pow` of three traced arguments: write `a**b % c`.")
        return binary("pow", operator.pow, *args)
    if len(args) == 1 and jnp.issubdtype(args[0].dtype, jnp.integer):
        return args[0]  # an integer that is rounded
    return function(*args, **kwargs)


def _followed(name: str, made: Any, *operands: Any) -> Any:
    """What an operation has made, unless it left its type where Python's integers would not."""
    if not isinstance(made, jax.Array) or not jnp.issubdtype(made.dtype, jnp.integer):
        return made
    # In the body of a loop little is known yet. What it computes is followed when it has been traced.
    name = name if name in OPERATORS else f"{name}_"
    known = [one for one in map(known_of, operands) if one is not None]
    if len(known) < len(operands) or name not in OPERATORS:
        return made
    if name in ("floordiv", "mod") and known[1].low < known[1].high and mode.is_conditional():
        return made  # the condition may say that the divisor is not 0
    try:
        found = OPERATORS[name](lambda: "here", *known)
        if found is not None:
            check_fits(name, lambda: "here", made.dtype, found)
    except NotAsInPython as error:
        raise refuse(f"{error}.") from None
    return note(made, found)


def _power(apply: Callable[[Any, Any], Any], base: Any, exponent: Any) -> Any:
    if is_traced(base) and base.weak_type and isinstance(exponent, int) and exponent < 0:
        return (1.0 * base) ** exponent  # `2 ** -1` is 0.5 in Python; JAX refuses it for integers
    # If both are integers of Python's (a traced one is weakly typed), the power may overflow where
    # Python's would not. Only such a power has to be found again by `tracing.integers`.
    if _is_int(base) and _is_int(exponent) and is_traced(exponent):
        return python_power(base, exponent)
    return apply(base, exponent)


def _is_int(value: Any) -> bool:
    if isinstance(value, jax.Array):
        return value.weak_type and jnp.issubdtype(value.dtype, jnp.integer)
    return isinstance(value, (int, np.integer))


@jax.jit
def python_power(base: Any, exponent: Any) -> Any:
    """`base ** exponent` of Python integers.

    `jit` keeps it in the jaxpr as one call, which `tracing.integers` finds by the name of this
    function. Else JAX writes it out as repeated squaring, and a square that no result uses would
    look like an overflow.
    """
    made = base**exponent
    # JAX forgets here that both are weakly typed. The power would count as an array's integer, which may wrap, and
    # so would all that is made of it.
    return converted(made, made.dtype, base.weak_type and exponent.weak_type)
