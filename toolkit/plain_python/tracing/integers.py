"""Refuses a staged loop in which an integer of Python's would overflow.

    k = 1
    for i in range(40):
        k = k * 2           # 2**40 in Python; in int32 it would wrap to 0

Python's integers have no bound, and JAX's wrap silently. So before a loop runs, the integers that
come from Python (an index, `k = 1` before the loop, a literal) are followed through its iterations as
intervals. Integers that come from arrays are JAX's from the start and may wrap; they are not followed.

Source: interval arithmetic (Moore 1966).
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

# Iterations followed if their number is unknown. What doubles leaves 64 bits within 70; what grows by
# equal steps would take 2**31 iterations, which is accepted.
_DOUBLINGS = 70
# After so many iterations the rest is extrapolated, if the integers grow by equal steps by then. After
# the last one the loop is refused, since following more would take long.
_LOOKOUTS = (2, 16, 128, 1024, 4096)
# The item of the k-th iteration; for None an interval that covers the items of all iterations.
Items = Callable[[int | None], Sequence[Known]]


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
      items: the leaves of an iteration's item.
      outputs: for each variable the result that is its next value, or None if it stays the same.
      length: the number of iterations; None if it depends on data.

    Raises:
      Overflow: if an integer leaves its type.
    """
    if not any(one is not None for one in (*entry, *items(None))) or not _grows(jaxpr):
        return
    _follow(jaxpr, [], list(entry), items, outputs, length)


def _grows(jaxpr: Any) -> bool:
    """Whether some integer may grow by more than a literal in each step.

    Most loops have none and need not be followed. A literal is taken to be small: `k + 1` passes int32
    only after 2**31 iterations. The size of the literal is not looked at.
    """
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        # No result of a `while` condition is carried on, so only the body counts.
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
            # Two steps on the interval of all items: if they are equally large, so is each later one,
            # and the end can be computed without following every iteration.
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
    """The intervals of a jaxpr's results."""
    known: dict[Any, Known] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Known:
        # A literal, such as the 2 of `2 * k`, counts as an integer of Python's.
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
    """The intervals of one operation's results; None for what is not an integer of Python's."""
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
    """An inner loop, followed in the same way."""
    loop = scan_parts(equation)
    consts, carry, items = loop.parted(inputs)
    body, outputs = opened(loop.body)[0], range(loop.carried)
    found = _follow(body, consts, list(carry), lambda _: items, outputs, loop.length)
    return [*found, *([None] * (len(equation.outvars) - loop.carried))]


def _check_exponent(equation: Any, exponent: IntegerInterval) -> None:
    if exponent.low < 0:
        place = summary(equation)
        raise Overflow(None, "int", f"a negative power, which is a float in Python, at {place}")
