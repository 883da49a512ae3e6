"""Errors that say that a traced value stands where Python has to know the value.

`layers[i]` with a traced `i`, `int(x)`, `jnp.zeros(n)`: JAX raises errors about tracers. They are
replaced by a refusal that names the user's line and what to write instead.
"""

from __future__ import annotations

import jax

from toolkit.plain_python.refusals import ControlFlowError, place_of

_NEEDS_PYTHON = (
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerArrayConversionError,
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
)
# In these cases JAX raises a plain TypeError or IndexError, which only its words tell from others.
_WORDS = (
    "unhashable type: 'DynamicJaxprTracer'",
    "must have static",
    "Shapes must be 1D sequences",
    "for *: 'list' and 'DynamicJaxprTracer'",
    "for *: 'tuple' and 'DynamicJaxprTracer'",
)


# What numbers of Python's have and arrays do not, such as `bit_length`.
_OF_NUMBERS = {*dir(int), *dir(float)} - set(dir(jax.Array))


def needs_python(error: BaseException | None) -> bool:
    """Whether a traced value was used where Python needs to know it."""
    if isinstance(error, AttributeError):
        return "Tracer has no attribute" in str(error) and str(error).split()[-1] in _OF_NUMBERS
    return isinstance(error, _NEEDS_PYTHON) or (
        isinstance(error, (TypeError, IndexError))
        and not isinstance(error, ControlFlowError)
        and any(word in str(error) for word in _WORDS)
    )


def explained(error: Exception) -> ControlFlowError:
    """The refusal for an error of `needs_python`, at the user's line."""
    place, expression = place_of(error)
    said = _SAID[isinstance(error, jax.errors.TracerBoolConversionError)]
    return place.refuse(f"`{expression}`: {said}" if expression else said)


# By whether Python asked for the truth of a traced value.
_SAID = {
    True: (
        "a traced value is a condition where Python has to know it: in a comprehension, `assert`, "
        "`sorted` or the like use jnp.where, jnp.any, jnp.max; a function that is called and not "
        "converted needs @tk.control_flow too."
    ),
    False: (
        "a value that is traced here (a loop variable, or what depends on one) is used where Python "
        "needs a number: an index of a list, a key of a dict, a slice, a shape, int() or float(). Go "
        "over the list itself, `for i, x in enumerate(xs)`, or over `tk.control.unroll(range(n))`: "
        "both run as Python. Numbers, or arrays of one shape, can be an array, `jnp.asarray(xs)[i]` "
        "(a slice of it: jax.lax.dynamic_slice_in_dim)."
    ),
}
