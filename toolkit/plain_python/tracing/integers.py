"""Python's integers have no bound and JAX's wrap: a staged loop in which they would is refused.

The integers of a block that come from Python (an index, `k = 1` before the loop, a literal) are
followed through its computation as intervals. What comes from arrays is JAX's from the start, and
is not followed.

Source: interval arithmetic (Moore 1966); loops are followed until they grow by equal steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from toolkit.jaxprs.classes import Literal
from toolkit.jaxprs.loops import branches, scan_parts, while_parts
from toolkit.jaxprs.operations import exponent, name_called, numbered
from toolkit.jaxprs.read import called, inner, opened
from toolkit.jaxprs.recorded_lines import summary
from toolkit.plain_python.tracing.intervals import (
    RULES,
    IntegerInterval,
    Known,
    Overflow,
    corners,
    equal_steps,
    extended,
    power,
    together,
)

_DOUBLINGS = 70  # iterations followed where their number is unknown: doubling leaves 64 bits before


_LOOKOUTS = (2, 16, 128, 1024, 4096)  # iterations after which one looks far ahead, or gives up


Items = Callable[[int | None], Sequence[Known]]  # of the k-th iteration; of any, without k


def check(
    jaxpr: Any,
    entry: Sequence[Known],
    items: Items,
    outputs: Sequence[int | None],
    length: int | None,
) -> None:
    """Follow a loop's integers.

    Args:
      jaxpr: one iteration; its inputs are the variables and then the item.
      entry: the variables before the loop.
      items: the item.
      outputs: for each variable which result it is next, or None where it stays.
      length: the number of iterations; None where it depends on data.

    Raises:
      Overflow: if an integer leaves its type.
    """
    if not any(one is not None for one in (*entry, *items(None))) or not _grows(jaxpr):
        return
    _follow(jaxpr, [], list(entry), items, outputs, length)


def _grows(jaxpr: Any) -> bool:
    """Whether integers may grow faster than by a constant a step."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        # The condition of a `while` makes no integer that goes on.
        inside = [opened(while_parts(equation).body)[0]] if name == "while" else inner(equation)
        if any(map(_grows, inside)):
            return True
        if not all(_is_integer(variable.aval) for variable in equation.outvars):
            continue
        if name in ("mul", "integer_pow", "pow", "shift_left", "div", "rem"):
            return True
        if name in ("add", "sub") and not any(isinstance(a, Literal) for a in equation.invars):
            return True
    return False


def _is_integer(aval: Any) -> bool:
    return jnp.issubdtype(getattr(aval, "dtype", float), jnp.integer)


def _follow(
    jaxpr: Any,
    consts: Sequence[Known],
    carry: list[Known],
    items: Items,
    outputs: Sequence[int | None],
    length: int | None,
) -> list[Known]:
    """The carry after the last iteration."""

    def step(carry: list[Known], k: int | None) -> list[Known]:
        results = _evaluate(jaxpr, [*consts, *carry, *items(k)])
        return [old if o is None else results[o] for old, o in zip(carry, outputs, strict=True)]

    for k in range(_DOUBLINGS if length is None else length):
        if length is not None and k in _LOOKOUTS:
            # Where every item together makes equal steps, the rest of the way is known.
            ahead = [carry]
            for _ in range(2):
                ahead.append(step(ahead[-1], None))
            if all(map(equal_steps, *ahead)):
                far = [extended(x, y, length - k - 1) for x, y in zip(*ahead[:2], strict=True)]
                return step(far, None)
        if k == _LOOKOUTS[-1]:
            raise Overflow(None, "int", "followed for too long")
        carry = step(carry, k)
    return carry


def _evaluate(jaxpr: Any, inputs: Sequence[Known]) -> list[Known]:
    known: dict[Any, Known] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Known:
        if isinstance(atom, Literal):
            aval: Any = atom.aval
            whole = _is_integer(aval) and aval.shape == ()
            return IntegerInterval(int(atom.val), int(atom.val)) if whole else None
        return known.get(atom)

    for equation in jaxpr.eqns:
        values = _apply(equation, [read(atom) for atom in equation.invars])
        for variable, value in zip(equation.outvars, values, strict=True):
            if value is not None:
                _check_fits(equation, variable.aval.dtype, value)
                known[variable] = value
    return [read(atom) for atom in jaxpr.outvars]


def _check_fits(equation: Any, dtype: Any, value: IntegerInterval) -> None:
    limits = jnp.iinfo(dtype)
    if value.low < limits.min or value.high > limits.max:
        reached = value.low if value.low < limits.min else value.high
        raise Overflow(reached, dtype, f"{equation.primitive.name} at {summary(equation)}")


def _apply(equation: Any, inputs: list[Known]) -> list[Known]:
    name = equation.primitive.name
    nothing: list[Known] = [None] * len(equation.outvars)
    if name == "scan":
        return _scan(equation, inputs)
    if name == "cond":
        found = [_evaluate(branch.jaxpr, inputs[1:]) for branch in branches(equation)]
        return [together(values) for values in zip(*found, strict=True)]
    if name == "jit":
        if name_called(equation) == "python_power" and inputs[0] and inputs[1]:
            _check_exponent(equation, inputs[1])
            return [power(inputs[0], inputs[1])]
        return _evaluate(opened(called(equation))[0], inputs)
    if name == "iota":
        return [IntegerInterval(0, max(numbered(equation) - 1, 0))]
    if name == "select_n":
        return [together(tuple(inputs[1:]))]
    if any(one is None for one in inputs) or len(nothing) != 1 or not inputs:
        return nothing
    if not _is_integer(equation.outvars[0].aval):
        return nothing
    known = [one for one in inputs if one is not None]
    if name in RULES:
        return [RULES[name](*known)]
    if name == "integer_pow":
        return [corners(lambda a: a ** exponent(equation), known[0])]
    return nothing


def _scan(equation: Any, inputs: list[Known]) -> list[Known]:
    loop = scan_parts(equation)
    consts, carry, items = loop.parted(inputs)
    body, outputs = opened(loop.body)[0], range(loop.carried)
    found = _follow(body, consts, list(carry), lambda _: items, outputs, loop.length)
    return [*found, *([None] * (len(equation.outvars) - loop.carried))]


def _check_exponent(equation: Any, exponent: IntegerInterval) -> None:
    if exponent.low < 0:
        place = summary(equation)
        raise Overflow(None, "int", f"a negative power, which is a float in Python, at {place}")
