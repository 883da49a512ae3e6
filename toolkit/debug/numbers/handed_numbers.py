"""The programs inside an equation, with the numbers that they are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from toolkit.jaxprs.loops import scan_parts, while_parts
from toolkit.jaxprs.operations import name_called
from toolkit.jaxprs.read import called, inner, opened
from toolkit.jaxprs.recorded_lines import definition

# Calls of functions that have a name.
CALLS = frozenset({"jit", "custom_jvp_call", "custom_vjp_call", "closed_call"})


def inner_programs(equation: Any, numbers: Sequence[Any]) -> Iterator[tuple[Any, Sequence[Any]]]:
    """The programs in an equation, with the numbers that they are given.

    A loop's carry changes from step to step, so its first value is no number inside.
    """
    name = equation.primitive.name
    if name == "while":
        loop = while_parts(equation)
        of_condition, of_body, carry = loop.parted(numbers)
        unknown = [None] * len(carry)
        yield loop.condition, [*of_condition, *unknown]
        yield loop.body, [*of_body, *unknown]
        return
    if name == "scan":
        consts, carry, xs = scan_parts(equation).parted(numbers)
        yield scan_parts(equation).body, [*consts, *[None] * (len(carry) + len(xs))]
        return
    for program in inner(equation):
        count = len(opened(program)[0].invars)
        # The first operand of a `cond` chooses the branch. Where an equation uses its operands in another
        # way, which is seen by their count, the numbers inside are not known.
        given = list(numbers[1:] if name == "cond" else numbers)
        yield program, given if len(given) == count else [None] * count


def name_of(equation: Any) -> str:
    """What an equation does: its primitive, or the function that it calls."""
    name = equation.primitive.name
    if name not in CALLS:
        return str(name)
    return (name_called(equation) or definition(called(equation)).name or name).lstrip("_")
