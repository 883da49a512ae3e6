"""Questions about the type of a value: `type(i)`, `isinstance(i, int)`, `hasattr(i, "shape")`.

A number of Python's that a loop has made a tracer would give JAX's answers. Where they differ from
Python's, the question is refused.
"""

from __future__ import annotations

import builtins
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.plain_python.carried.typed_arrays import is_traced
from toolkit.plain_python.refusals import refuse
from toolkit.plain_python.runtime.arithmetic import as_python_bool, is_pythons
from toolkit.plain_python.tracing.known_intervals import is_made

_KINDS = ((jnp.bool_, bool), (jnp.integer, int), (jnp.floating, float))


def asked(function: Any, *args: Any) -> Any:
    """`type`, `isinstance`, `hasattr`, `getattr` and `np.isscalar`."""
    ours = (builtins.type, builtins.isinstance, builtins.hasattr, builtins.getattr, np.isscalar)
    if function in ours and args and _stands_for_a_number(args[0]):
        _check(function, *args)
    return function(*args)


def class_of(value: Any) -> Any:
    """`value.__class__`."""
    if _stands_for_a_number(value):
        _check(builtins.type, value)
    return value.__class__


def identical(a: Any, b: Any) -> Any:
    """`a is b`. Python has one True and one False, so for its bools this asks for their values."""
    if a is b or not (is_traced(a) or is_traced(b)) or not (is_pythons(a) and is_pythons(b)):
        return a is b
    if all(isinstance(one, bool) or getattr(one, "dtype", None) == jnp.bool_ for one in (a, b)):
        return as_python_bool(jnp.equal(a, b), a, b)
    raise refuse(
        "`is` between numbers of which one is traced here: whether Python keeps two equal numbers as one "
        "object is not defined; compare them with `==`."
    )


def _stands_for_a_number(value: Any) -> bool:
    if not isinstance(value, jax.Array) or not is_pythons(value):
        return False
    return is_traced(value) or is_made(value)


def _check(function: Any, value: Any, *rest: Any) -> None:
    kind = next((python for of, python in _KINDS if jnp.issubdtype(value.dtype, of)), complex)
    if function is builtins.isinstance:
        same = issubclass(kind, *rest) == isinstance(value, *rest)
    elif function in (builtins.hasattr, builtins.getattr):
        same = hasattr(kind(), rest[0]) == hasattr(value, rest[0])
    else:
        same = False
    if not same:
        shown = ", ".join(["...", *(getattr(one, "__name__", repr(one)) for one in rest)])
        raise refuse(
            f"`{function.__name__}({shown})` of a Python number that has become a traced value: ask "
            "before the loop, or run the loop as Python with tk.control.unroll."
        )
