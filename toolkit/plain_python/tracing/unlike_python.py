"""Where an integer would not be Python's: too large for its type, divided by 0, rounded to a float.

Each check raises `NotAsInPython` with the sentence that the user reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from toolkit.jaxprs.recorded_lines import summary
from toolkit.plain_python.tracing.intervals import (
    IntegerInterval,
    Known,
    NotAsInPython,
    floor_divide,
    power,
    range_length,
    remainder,
)


def is_integer(aval: Any) -> bool:
    return jnp.issubdtype(getattr(aval, "dtype", float), jnp.integer)


def check_fits(equation: Any, dtype: Any, value: IntegerInterval) -> None:
    if not jnp.issubdtype(dtype, jnp.integer):
        return
    limits = jnp.iinfo(dtype)
    if value.low < limits.min or value.high > limits.max:
        reached = value.low if value.low < limits.min else value.high
        raise NotAsInPython(
            f"a Python integer grows to {short(reached)} in this staged loop "
            f"({equation.primitive.name} at {summary(equation)}), where {dtype} would wrap and Python "
            "would not: use floats, begin with jnp.int32(...) to take JAX's integers on purpose, or "
            "enable jax_enable_x64"
        )


def short(number: int) -> str:
    return f"{number:.3g}" if abs(number) < 2**1000 else f"more than 2**{number.bit_length() - 1}"


def is_exact(dtype: Any, value: IntegerInterval) -> bool:
    """Whether a float type has all these integers."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return True
    return max(value.high, -value.low) <= 2 ** (jnp.finfo(dtype).nmant + 1)


def check_joined(equation: Any, dtype: Any, value: IntegerInterval) -> None:
    """Refuse an integer that one branch of a condition leaves where the other leaves a float that cannot hold it."""
    if not is_exact(dtype, value):
        raise NotAsInPython(
            f"a Python integer grows to {short(max(value.high, -value.low))} and is a {dtype} after the "
            f"condition at {summary(equation)}, which cannot hold it: give both branches integers, or "
            "both floats"
        )


def check_compared(equation: Any, inputs: list[Known]) -> None:
    """Refuse to compare an integer with a float that may not have it; Python compares them exactly."""
    for atom, value in zip(equation.invars, inputs, strict=True):
        if value is not None and not is_exact(atom.aval.dtype, value):
            raise NotAsInPython(
                f"a Python integer grows to {short(max(value.high, -value.low))} and is compared as "
                f"{atom.aval.dtype} at {summary(equation)}, which cannot hold it: compare integers with "
                "integers"
            )


# By the name of a jitted function, what it makes of integers that are all known.


def _power(equation: Any, base: IntegerInterval, exponent: IntegerInterval) -> IntegerInterval:
    if exponent.low < 0:
        raise NotAsInPython(
            f"a Python integer grows without a known bound (a negative power, which is a float in "
            f"Python, at {summary(equation)}): use a float as base"
        )
    return power(base, exponent)


def _division(rule: Callable[..., IntegerInterval]) -> Callable[..., IntegerInterval]:
    def divided(equation: Any, a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
        if b.low <= 0 <= b.high:
            raise NotAsInPython(
                f"a Python integer may be divided by 0 at {summary(equation)}, where Python raises "
                "ZeroDivisionError: divide under `if` the divisor is not 0, or divide floats"
            )
        return rule(a, b)

    return divided


CALLED: dict[str, Callable[..., IntegerInterval]] = {
    "python_power": _power,
    "floor_divide": _division(floor_divide),
    "remainder": _division(remainder),
    "range_length": lambda _, *bounds: range_length(*bounds),
}
