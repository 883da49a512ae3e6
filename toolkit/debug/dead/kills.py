"""Where a derivative becomes zero: the equations whose result does not move when an operand does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp

from toolkit.debug.dead.bounds import ANY, NAN, ZERO, Bounds, is_point
from toolkit.debug.source_lines import NOWHERE, SourceLine
from toolkit.jaxprs.operations import exponent

_COMPARISON = "the comparison"
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_FLAT = "its derivative is zero everywhere"
_STOPPED = "it stops the gradient"
_FLAT_OPERATIONS = {
    *("argmax", "argmin", "bitcast_convert_type", "ceil"),
    *("floor", "is_finite", "nextafter", "round", "sign"),
}


class Kill(NamedTuple):
    """The end of a path from an input."""

    what: str  # the operation in words
    why: str
    place: SourceLine
    # 0: a line of the user's; 1: inside a wrapper, or this package's; 2: a consequence of another kill
    rank: int = 0
    in_loop: bool = False
    condition: tuple[str, SourceLine] | None = None  # what the dead value then decides, if it does
    order: int = 0  # in the program

    @property
    def weight(self) -> tuple[int, bool, int]:
        """Of several kills the one of least weight is named.

        A kill that ends in a condition is a side path, so those on the way of the value itself come first. Of
        these the last in the program is named: there the last path ends.
        """
        decides = self.condition is not None or self.what.startswith((_COMPARISON, "`is_finite`"))
        return self.rank, decides, -self.order

    def deciding(self, user: str, place: SourceLine) -> Kill:
        """This kill, if it is a comparison's, once its result serves as the condition of `user`."""
        compares = self.what.startswith(_COMPARISON) and self.condition is None
        return self._replace(condition=(user, place)) if compares else self

    def reason(self) -> str:
        """One sentence that names operation, place and source text."""
        where = f" inside the loop, at {self.place}" if self.in_loop else f" at {self.place}"
        source = f": {self.place.source}" if self.place.source else ""
        if self.condition is None:
            return f"{self.what}{where}{source} ({self.why})"
        user, place = self.condition
        elsewhere = "" if place in (self.place, NOWHERE) else f" at {place}"
        return f"only used as the condition of {user}{elsewhere}, by {self.what}{where}{source}"


@dataclass(frozen=True, eq=False)  # two values are the same only if they are one object
class Dependence:
    """What is known of an array: which inputs it moves with, which it does not any more, its bounds.

    Inputs are numbered from 0. `~i` is input `i` where this package has stopped its gradient: of no
    use to a derivative, but the trail to what its own rules differentiate.
    """

    live: frozenset[int] = frozenset()
    dead: dict[int, Kill] = field(default_factory=dict)  # never changed
    bounds: Bounds = ANY


def buried(*values: Dependence) -> dict[int, Kill]:
    """The kills behind several values, of each input the one most worth naming."""
    kills: dict[int, Kill] = {}
    for value in values:
        for label, kill in value.dead.items():
            if label not in kills or kill.weight < kills[label].weight:
                kills[label] = kill
    return kills


class Cause(NamedTuple):
    """Why an operand's path ends at an equation."""

    what: str
    why: str

    @property
    def flat(self) -> bool:
        """Whether the operation is flat in itself, whatever its operands."""
        return not self.what.startswith(_COMPARISON) and self.why in (_FLAT, _STOPPED)


def causes(equation: Any, values: Sequence[Dependence]) -> dict[int, Cause]:
    """The operands, by position, that the floating results of `equation` do not move with."""
    name = equation.primitive.name
    # With a NaN among the operands no rule below holds: `0 * NaN` is not zero.
    if any(value.bounds == NAN for value in values) and name != "select_n":
        return {}
    if name in _FLAT_OPERATIONS:
        return dict.fromkeys(range(len(values)), Cause(f"`{name}`", _FLAT))
    if name == "stop_gradient":
        return {0: Cause("`stop_gradient`", _STOPPED)}
    if name == "integer_pow":
        flat = exponent(equation) == 0
        return {0: Cause("`x ** 0`", "it is one everywhere")} if flat else {}
    rule = _RULES.get(name)
    return {} if rule is None else rule(values)


def integer_cause(equation: Any, dtype: Any) -> Cause:
    """Why nothing moves with an integer, a truth value or a key."""
    name = equation.primitive.name
    if name in COMPARISONS:
        return Cause(f"{_COMPARISON} `{COMPARISONS[name]}`", _FLAT)
    if name in _FLAT_OPERATIONS:
        return Cause(f"`{name}`", _FLAT)
    if name == "convert_element_type":
        kind = "truth values" if dtype == jnp.bool_ else "integers"
        return Cause(f"the cast to {dtype}", f"{kind} have no gradient")
    return Cause(f"`{name}`", f"its result is {dtype}, which has no gradient")


def _product(values: Sequence[Dependence]) -> dict[int, Cause]:
    cause = Cause("the multiplication by zero", "the product is zero everywhere")
    a, b = (value.bounds == ZERO for value in values[:2])
    return {**({0: cause} if b else {}), **({1: cause} if a else {})}


def _difference(values: Sequence[Dependence]) -> dict[int, Cause]:
    same = values[0] is values[1]
    cause = Cause("`x - x`", "the difference is zero everywhere")
    return dict.fromkeys((0, 1), cause) if same else {}


def _quotient(values: Sequence[Dependence]) -> dict[int, Cause]:
    if values[0] is values[1]:
        return dict.fromkeys((0, 1), Cause("`x / x`", "the quotient is one everywhere"))
    # d(a / b) = da / b - a db / b^2: with a = 0 it still moves with a, and not with b.
    cause = Cause("the division of zero", "the quotient is zero everywhere")
    return {1: cause} if values[0].bounds == ZERO else {}


def _power(values: Sequence[Dependence]) -> dict[int, Cause]:
    cause = Cause("`x ** 0`", "it is one everywhere")
    return {0: cause} if values[1].bounds == ZERO else {}


def _extreme(name: str, better: Callable[[Bounds, Bounds], bool]) -> Callable[..., Any]:
    def rule(values: Sequence[Dependence]) -> dict[int, Cause]:
        a, b = (value.bounds for value in values)
        if is_point(a) and a == b:
            return {}
        # Where two operands are equal, JAX gives each half of the gradient. An operand that is never larger
        # can at most be equal, and counts as never chosen.
        cause = Cause(f"`{name}`", "the other operand is always chosen")
        return {0: cause} if better(b, a) else {1: cause} if better(a, b) else {}

    return rule


def _clamp(values: Sequence[Dependence]) -> dict[int, Cause]:
    low, x, high = (value.bounds for value in values)
    clipped = x.high <= low.low or x.low >= high.high
    return {1: Cause("`clip`", "it is always clipped")} if clipped else {}


def _select(values: Sequence[Dependence]) -> dict[int, Cause]:
    condition = values[0].bounds
    if not is_point(condition):
        return {}
    cause = Cause("`where`/`select`", "the condition never chooses it")
    chosen = int(condition.low) + 1
    return {i: cause for i in range(1, len(values)) if i != chosen}


_RULES: dict[str, Callable[[Sequence[Dependence]], dict[int, Cause]]] = {
    "clamp": _clamp,
    "conv_general_dilated": _product,
    "div": _quotient,
    "dot_general": _product,
    "max": _extreme("max", lambda winner, loser: winner.low >= loser.high),
    "min": _extreme("min", lambda winner, loser: winner.high <= loser.low),
    "mul": _product,
    "pow": _power,
    "select_n": _select,
    "sub": _difference,
}
