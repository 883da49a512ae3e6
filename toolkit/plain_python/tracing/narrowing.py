"""What a condition says about the integers in it: under `k < n` the integer `k` is at most `n - 1`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from toolkit.plain_python.tracing.intervals import IntegerInterval, Known

_OPPOSITE = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}
_SAME = ("convert_element_type", "reshape", "squeeze", "copy")  # what changes a type only
_EXCHANGED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "eq": "eq", "ne": "ne"}


class Relation(NamedTuple):
    """`left < right` and the like, of two values in a jaxpr."""

    operator: str  # lt, le, gt, ge, eq or ne
    left: Any
    right: Any

    def exchanged(self) -> Relation:
        """The same, said of `right`: `right > left`."""
        return Relation(_EXCHANGED[self.operator], self.right, self.left)


def comparisons(jaxpr: Any, atom: Any, holds: bool = True) -> list[Relation]:
    """The comparisons that are true where `atom` is `holds`."""
    made = {id(variable): equation for equation in jaxpr.eqns for variable in equation.outvars}

    def found(atom: Any, holds: bool) -> list[Relation]:
        equation = made.get(id(atom))
        if equation is None:
            return []
        name, operands = equation.primitive.name, equation.invars
        if name in _OPPOSITE:
            return [
                Relation(name if holds else _OPPOSITE[name], *(_source(made, o) for o in operands))
            ]
        if name in _SAME:
            return found(operands[0], holds)
        if name == "not":
            return found(operands[0], not holds)
        # Both operands of an `and` that is true are true, and both of an `or` that is false are false.
        if name == ("and" if holds else "or"):
            return [one for operand in operands for one in found(operand, holds)]
        return []

    return found(atom, holds)


def _source(made: dict[int, Any], atom: Any) -> Any:
    """The value that was converted to another type to be compared."""
    equation = made.get(id(atom))
    if equation is None or equation.primitive.name not in _SAME:
        return atom
    return _source(made, equation.invars[0])


def narrowed(
    said: list[Relation], read: Callable[[Any], Known], variables: list[Any]
) -> list[Known] | None:
    """The intervals of `variables` where these comparisons are true; None if they never are."""
    values = [read(variable) for variable in variables]
    for one in (*said, *(other.exchanged() for other in said)):
        for k, variable in enumerate(variables):
            value, other = values[k], read(one.right)
            if one.left is not variable or value is None or other is None:
                continue
            values[k] = _narrowed(one.operator, value, other)
            if values[k] is None:
                return None
    return values


def _narrowed(operator: str, value: IntegerInterval, other: IntegerInterval) -> Known:
    """Those of `value` for which `value < other` and the like can be true; None if there are none."""
    low, high = value.low, value.high
    if operator in ("lt", "le", "eq"):
        high = min(high, other.high - (operator == "lt"))
    if operator in ("gt", "ge", "eq"):
        low = max(low, other.low + (operator == "gt"))
    if operator == "ne" and other.low == other.high:
        low, high = low + (low == other.low), high - (high == other.low)
    return None if low > high else value._replace(low=low, high=high)
