"""Arrays and Python numbers of a given type, weakly typed or not.

`1.0` in Python becomes a *weakly typed* float32 in JAX: `1.0 * x` has the type of `x`. A strongly
typed `float32(1.0)` would turn a bfloat16 `x` into a float32.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.jaxprs.hidden import converted
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.plain_python.refusals import refuse


def is_extended(dtype: Any) -> bool:
    """Whether this is a dtype of JAX's own, such as that of a random key, which no array converts to."""
    return jnp.issubdtype(dtype, jax.dtypes.extended)


def zeros(aval: Any) -> Any:
    """A placeholder of this type; nothing reads it."""
    return vary(_zeros(aval), varying_axes(aval))


def _zeros(aval: Any) -> Any:
    if not is_extended(aval.dtype):
        return jnp.zeros(aval.shape, aval.dtype)
    return jnp.broadcast_to(jax.random.key(0, impl=_key_type(aval)), aval.shape)


def _key_type(aval: Any) -> Any:
    # The implementation of a random key ("threefry2x32") is told for an array of keys only, not for its
    # type. An abstract evaluation makes such an array without computing anything.
    found: list[Any] = []
    example = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), example)
    return found[0]


def fitting(leaf: Any) -> Any:
    """`leaf`, unless it holds integers of NumPy's that JAX would cut to fewer bits."""
    if isinstance(leaf, (np.ndarray, np.integer)) and leaf.dtype.kind in "iu" and leaf.size:
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        for end in (int(leaf.min()), int(leaf.max())) if dtype != leaf.dtype else ():
            if not holds(dtype, end):
                raise refuse(
                    f"the {leaf.dtype} of NumPy's holds {end}, and {dtype}, which JAX makes of it here, "
                    "does not: use floats, or enable jax_enable_x64."
                )
    return leaf


def with_type(leaf: Any, aval: Any, weak: bool | None = None) -> Any:
    """`leaf` as an array of the type `aval`, weakly typed or not."""
    weak = aval.weak_type if weak is None else weak
    if is_extended(aval.dtype):
        return leaf
    leaf = jnp.asarray(fitting(leaf), aval.dtype) if not isinstance(leaf, jax.Array) else leaf
    if leaf.dtype == aval.dtype and leaf.weak_type == weak:
        return leaf
    return converted(leaf, aval.dtype, weak)


def joined_dtype(a: Any, b: Any) -> Any:
    """The dtype of `where(condition, x, y)` for values of these types."""
    return jnp.result_type(_as_operand(a), _as_operand(b))


def _as_operand(aval: Any) -> Any:
    # `result_type` does not see that a type is weak: of a weak float32 and a bfloat16 it makes a float32.
    # Python's own types, which it takes as weak, stand for it.
    if not aval.weak_type:
        return aval.dtype
    kinds = ((jnp.bool_, bool), (jnp.integer, int), (jnp.floating, float))
    return next((kind for of, kind in kinds if jnp.issubdtype(aval.dtype, of)), complex)


def holds(dtype: Any, number: Any) -> bool:
    """Whether a dtype has a number of Python's: an integer exactly, a float without becoming infinite."""
    if not is_python_number(number) or jnp.issubdtype(dtype, jnp.complexfloating):
        return True
    if not jnp.issubdtype(dtype, jnp.inexact):
        limits = (0, 1) if dtype == jnp.bool_ else (jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
        return limits[0] <= number <= limits[1]
    if isinstance(number, int) and abs(number) > 2**1000:
        return False  # beyond all floats
    with np.errstate(over="ignore"):
        cast = float(np.asarray(float(number)).astype(dtype))
    return (
        cast == number if isinstance(number, int) else np.isfinite(cast) or not np.isfinite(number)
    )


def is_traced(value: Any) -> bool:
    """Whether `value` is known only when the compiled program runs."""
    return isinstance(value, jax.core.Tracer)


def type_text(aval: Any) -> str:
    """`float32[3,4]`."""
    return f"{aval.dtype}[{','.join(map(str, aval.shape))}]"


def is_python_number(leaf: Any) -> bool:
    """Whether `leaf` is a number of Python's own, known before anything runs."""
    # `np.float64` is a subclass of `float`, but JAX takes its dtype as given, not as weakly typed.
    return isinstance(leaf, (bool, int, float, complex)) and not isinstance(leaf, np.generic)


def is_same_number(a: Any, b: Any) -> bool:
    """Whether two numbers of Python's are the same, of one type and with one sign."""
    if not (is_python_number(a) and is_python_number(b)) or type(a) is not type(b):
        return False
    # `==` would take -0.0 for 0.0, and NaN for another number. Large integers have no `repr`.
    return a == b if isinstance(a, int) else repr(a) == repr(b)
