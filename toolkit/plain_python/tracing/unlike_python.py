"""Where an integer would not be Python's: too large for its type, divided by 0, rounded to a float.

Each check raises `NotAsInPython` with the sentence that the user reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from toolkit.plain_python.tracing.intervals import (
    RULES,
    IntegerInterval,
    Known,
    NotAsInPython,
    floor_divide,
    power,
    range_length,
    remainder,
)

# Says where an operation stands, for a message.
Where = Callable[[], str]


def is_integer(aval: Any) -> bool:
    return jnp.issubdtype(getattr(aval, "dtype", float), jnp.integer)


def check_fits(operation: str, where: Where, dtype: Any, value: IntegerInterval) -> None:
    """Refuse an integer that leaves its type."""
    if not jnp.issubdtype(dtype, jnp.integer):
        return
    limits = jnp.iinfo(dtype)
    if value.low < limits.min or value.high > limits.max:
        reached = value.low if value.low < limits.min else value.high
        raise NotAsInPython(
            f"a Python integer grows to {short(reached)} ({operation} {where()}), where {dtype} would "
            "wrap and Python would not: use floats, begin with jnp.int32(...) to take JAX's integers on "
            "purpose, bound the loop, or enable jax_enable_x64"
        )


def short(number: int) -> str:
    return f"{number:.3g}" if abs(number) < 2**1000 else f"more than 2**{number.bit_length() - 1}"


def is_exact(dtype: Any, value: IntegerInterval) -> bool:
    """Whether a float type has all these integers."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return True
    return max(value.high, -value.low) <= 2 ** (jnp.finfo(dtype).nmant + 1)


def check_joined(where: Where, dtype: Any, value: IntegerInterval) -> None:
    """Refuse an integer that one branch of a condition leaves where the other leaves a float that cannot hold it."""
    if not is_exact(dtype, value):
        raise NotAsInPython(
            f"a Python integer grows to {short(max(value.high, -value.low))} and is a {dtype} after the "
            f"condition {where()}, which cannot hold it: give both branches integers, or "
            "both floats"
        )


def check_compared(where: Where, equation: Any, inputs: list[Known]) -> None:
    """Refuse to compare an integer with a float that may not have it; Python compares them exactly."""
    for atom, value in zip(equation.invars, inputs, strict=True):
        if value is not None and not is_exact(atom.aval.dtype, value):
            raise NotAsInPython(
                f"a Python integer grows to {short(max(value.high, -value.low))} and is compared as "
                f"{atom.aval.dtype} {where()}, which cannot hold it: compare integers with "
                "integers"
            )


# What Python's operators make of integers that are all known, or why they are refused.


def _power(where: Where, base: Known, exponent: Known) -> Known:
    if exponent is None:
        raise NotAsInPython(
            f"the exponent of a power of integers is not known {where()}, and a negative one gives a "
            "float in Python: use a float as base"
        )
    if exponent.low < 0:
        raise NotAsInPython(
            f"a Python integer grows without a known bound (a negative power, which is a float in "
            f"Python, {where()}): use a float as base"
        )
    return None if base is None else power(base, exponent)


def _division(rule: Callable[..., IntegerInterval]) -> Callable[..., IntegerInterval]:
    def divided(where: Where, a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
        if b.low <= 0 <= b.high:
            raise NotAsInPython(
                f"a Python integer may be divided by 0 {where()}, where Python raises "
                "ZeroDivisionError: divide under `if` the divisor is not 0, or divide floats"
            )
        return rule(a, b)

    return divided


def _shift(name: str) -> Callable[..., IntegerInterval]:
    def shifted(where: Where, a: IntegerInterval, by: IntegerInterval) -> IntegerInterval:
        if by.low < 0:
            raise NotAsInPython(f"a shift may be negative {where()}, where Python raises")
        return RULES[name](a, by)

    return shifted


Rule = Callable[..., Known]
# By the name of a jitted function.
CALLED: dict[str, Rule] = {
    "python_power": _power,
    "floor_divide": _division(floor_divide),
    "remainder": _division(remainder),
    "range_length": lambda _, *bounds: range_length(*bounds),
}
# By the name of a primitive.
SHIFTS: dict[str, Rule] = {
    name: _shift(name) for name in ("shift_left", "shift_right_arithmetic", "shift_right_logical")
}
_PLAIN = {
    "add": "add", "sub": "sub", "mul": "mul", "and_": "and", "or_": "or", "xor": "xor", "neg": "neg",
    "invert": "not", "abs": "abs",
}  # fmt: skip
# By the name of a function in `operator`.
OPERATORS: dict[str, Rule] = {
    "pow": _power,
    "floordiv": _division(floor_divide),
    "mod": _division(remainder),
    "lshift": SHIFTS["shift_left"],
    "rshift": SHIFTS["shift_right_arithmetic"],
    **{name: lambda _, *known, rule=RULES[of]: rule(*known) for name, of in _PLAIN.items()},
}
