"""Bounds on the results of equations, by interval arithmetic: what is always positive, or always zero.

Bounds hold for all entries of an array, whatever the inputs. Those of a complex array are `ZERO` or `ANY`.
Rounding is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.jaxprs.operations import exponent, filling

_LARGEST_CONSTANT = 1 << 20  # entries of a constant that are looked at


class Bounds(NamedTuple):
    """All entries lie in `[low, high]`."""

    low: float
    high: float


ANY = Bounds(-math.inf, math.inf)
ZERO = Bounds(0.0, 0.0)
NAN = Bounds(math.inf, -math.inf)  # no number: joined with others it adds nothing
BOOLEAN = Bounds(0.0, 1.0)
_POSITIVE = Bounds(0.0, math.inf)


def join(*bounds: Bounds) -> Bounds:
    """The narrowest bounds that hold all of them."""
    return Bounds(min(i.low for i in bounds), max(i.high for i in bounds))


def widened(old: Bounds, new: Bounds) -> Bounds:
    """`new`, with each bound that has moved since `old` set to infinity.

    The bounds of a counter would otherwise move in each pass over a loop, and the passes would not end.
    """
    low = old.low if new.low >= old.low else -math.inf
    high = old.high if new.high <= old.high else math.inf
    return Bounds(low, high)


def of_constant(value: Any) -> Bounds:
    """Bounds of an array that stands in the program."""
    if isinstance(value, jax.core.Tracer) or np.size(value) > _LARGEST_CONSTANT:
        return ANY
    if jnp.issubdtype(jnp.result_type(value), jax.dtypes.extended) or not np.size(value):
        return ANY
    array = np.asarray(value)
    if array.dtype == jax.dtypes.float0:
        return ZERO
    if np.isnan(array).all():
        return NAN
    if np.iscomplexobj(array):
        return ANY if np.any(array) else ZERO
    low, high = float(np.min(array)), float(np.max(array))
    return ANY if math.isnan(low) or math.isnan(high) else Bounds(low, high)


def of_equation(equation: Any, operands: Sequence[Bounds]) -> Bounds:
    """Bounds of the (first) result, from those of the operands."""
    name, dtype = equation.primitive.name, equation.outvars[0].aval.dtype
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return ANY
    if NAN in operands and name != "select_n":
        return operands[0] if name in _SHAPES else ANY
    atoms = (*equation.invars, *equation.outvars)
    if any(jnp.issubdtype(atom.aval.dtype, jnp.complexfloating) for atom in atoms):
        return _of_complex(name, operands)
    if name == "integer_pow":
        bounds = _integer_power(operands[0], exponent(equation))
    elif name == "gather" and filling(equation) is not None:
        bounds = join(operands[0], of_constant(filling(equation)))
    else:
        bounds = _RULES.get(name, lambda *_: ANY)(*operands)
    return _as_dtype(bounds, dtype)


def _as_dtype(a: Bounds, dtype: Any) -> Bounds:
    """`a` for results of a dtype: truth values, and integers, which may have wrapped around."""
    # A sum of opposite infinities, bounds that are not known, is NaN.
    if math.isnan(a.low) or math.isnan(a.high):
        a = ANY
    if dtype == jnp.bool_:
        return _not(_equal(a, ZERO))
    if jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        whole = Bounds(*(_whole(x, math.trunc) for x in a))
        return whole if limits.min <= whole.low and whole.high <= limits.max else ANY
    return a


def _of_complex(name: str, operands: Sequence[Bounds]) -> Bounds:
    zeros = [operand == ZERO for operand in operands]
    if name in ("mul", "dot_general"):
        return ZERO if any(zeros) else ANY
    if name == "select_n":
        return ZERO if all(zeros[1:]) else ANY
    if name in ("div", "dynamic_slice", "gather"):
        return ZERO if zeros[0] else ANY
    return ZERO if name in _ZERO_TO_ZERO and all(zeros) else ANY


def _times(a: float, b: float) -> float:
    # A bound of infinity means "any number", and zero times any number is zero. Floats would make a NaN.
    return 0.0 if a == 0 or b == 0 else a * b


def _product(a: Bounds, b: Bounds) -> Bounds:
    # A product is linear in each factor, so its extremes are at corners.
    corners = [_times(x, y) for x in a for y in b]
    return Bounds(min(corners), max(corners))


def _quotient(a: Bounds, b: Bounds) -> Bounds:
    if a == ZERO:
        return ZERO
    if b.low < 0 < b.high:
        return ANY
    # The denominator has one sign, so that 1 / b is monotone; at the bound 0 it is infinite with that sign.
    sign = -1.0 if b.low < 0 else 1.0
    reciprocals = [sign * math.inf if bound == 0 else 1 / bound for bound in b]
    return _product(a, Bounds(min(reciprocals), max(reciprocals)))


def _sum(*parts: Bounds) -> Bounds:
    return Bounds(sum(p.low for p in parts), sum(p.high for p in parts))


def _negative(a: Bounds) -> Bounds:
    return Bounds(-a.high, -a.low)


def _magnitude(a: Bounds) -> Bounds:
    low = 0.0 if a.low <= 0 <= a.high else min(abs(a.low), abs(a.high))
    return Bounds(low, max(abs(a.low), abs(a.high)))


def _integer_power(a: Bounds, exponent: int) -> Bounds:
    if exponent == 0:
        return Bounds(1.0, 1.0)
    if exponent < 0:  # only the sign is used: 1 / x^n has no bounds near 0
        return _POSITIVE if exponent % 2 == 0 or a.low >= 0 else ANY
    if exponent % 2 == 0:
        a = _magnitude(a)
    return _monotone(lambda x: x**exponent)(a)


def _monotone(function: Callable[[float], float]) -> Callable[[Bounds], Bounds]:
    # Where the function overflows, or is not defined at a bound, nothing is known on that side.
    def bound(x: float, otherwise: float) -> float:
        try:
            return function(x)
        except (OverflowError, ValueError):
            return otherwise

    return lambda a: Bounds(bound(a.low, -math.inf), bound(a.high, math.inf))


def _logarithm(a: Bounds) -> Bounds:
    return Bounds(*(math.log(x) if x > 0 else -math.inf for x in a))


def _sigmoid(x: float) -> float:
    # Either form takes `exp` of a number that is not positive, which cannot overflow.
    return 1 / (1 + math.exp(-x)) if x >= 0 else 1 - 1 / (1 + math.exp(x))


def _whole(x: float, rounded: Callable[[float], float]) -> float:
    return rounded(x) if math.isfinite(x) else x


def _many(a: Bounds) -> Bounds:
    """A sum of any number of entries, none included: only its sign is known."""
    return Bounds(_times(math.inf, min(a.low, 0)), _times(math.inf, max(a.high, 0)))


def _maximum(a: Bounds, b: Bounds) -> Bounds:
    return Bounds(max(a.low, b.low), max(a.high, b.high))


def _minimum(a: Bounds, b: Bounds) -> Bounds:
    return Bounds(min(a.low, b.low), min(a.high, b.high))


def _choice(condition: Bounds, *cases: Bounds) -> Bounds:
    return cases[int(condition.low)] if is_point(condition) else join(*cases)


def is_point(a: Bounds) -> bool:
    """Whether only one value is possible."""
    return a.low == a.high and math.isfinite(a.low)


def _decided(yes: bool, no: bool) -> Bounds:
    return Bounds(1.0, 1.0) if yes else ZERO if no else BOOLEAN


def _less(a: Bounds, b: Bounds) -> Bounds:
    return _decided(a.high < b.low, a.low >= b.high)


def _less_or_equal(a: Bounds, b: Bounds) -> Bounds:
    return _decided(a.high <= b.low, a.low > b.high)


def _equal(a: Bounds, b: Bounds) -> Bounds:
    return _decided(is_point(a) and a == b, a.high < b.low or b.high < a.low)


def _not(a: Bounds) -> Bounds:
    return Bounds(1 - a.high, 1 - a.low) if _is_boolean(a) else ANY


def _and(a: Bounds, b: Bounds) -> Bounds:
    return _minimum(a, b) if _is_boolean(a) and _is_boolean(b) else ANY


def _or(a: Bounds, b: Bounds) -> Bounds:
    return _maximum(a, b) if _is_boolean(a) and _is_boolean(b) else ANY


def _is_boolean(a: Bounds) -> bool:
    return a.low >= 0 and a.high <= 1


# Each entry of the result is one of the first operand.
_SHAPES = (
    "broadcast_in_dim", "convert_element_type", "copy", "copy_p", "cummax", "cummin", "device_put",
    "dynamic_slice", "expand_dims", "gather", "optimization_barrier", "pcast", "pvary", "real",
    "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_precision", "reshape", "rev",
    "sharding_constraint", "slice", "squeeze", "stop_gradient", "transpose",
)  # fmt: skip
_ODD = {name: _monotone(getattr(math, name)) for name in ("tanh", "erf", "atan", "asinh", "sinh")}
_RULES: dict[str, Callable[..., Bounds]] = {
    **dict.fromkeys(_SHAPES, lambda a, *_: a),
    **dict.fromkeys(("sin", "cos"), lambda a: Bounds(-1.0, 1.0)),
    **dict.fromkeys(("reduce_sum", "cumsum"), _many),
    **dict.fromkeys(("concatenate", "pad"), join),
    **dict.fromkeys(("dynamic_update_slice", "scatter"), lambda a, b, *rest: join(a, b, *rest)),
    **dict.fromkeys(("add", "add_any"), _sum),
    **_ODD,
    "abs": _magnitude,
    "and": _and,
    "ceil": lambda a: Bounds(*(_whole(x, math.ceil) for x in a)),
    "clamp": lambda low, x, high: _minimum(_maximum(x, low), high),
    "cosh": lambda a: Bounds(1.0, math.inf),  # 1 at 0, and larger on both sides
    "div": _quotient,
    **dict.fromkeys(("dot_general", "conv_general_dilated"), lambda a, b: _many(_product(a, b))),
    "eq": _equal,
    "exp": _monotone(math.exp),
    "expm1": _monotone(math.expm1),
    "floor": lambda a: Bounds(*(_whole(x, math.floor) for x in a)),
    "ge": lambda a, b: _less_or_equal(b, a),
    "gt": lambda a, b: _less(b, a),
    "le": _less_or_equal,
    "iota": lambda: _POSITIVE,
    "log": _logarithm,
    "log1p": lambda a: _logarithm(_sum(a, Bounds(1.0, 1.0))),
    "logistic": _monotone(_sigmoid),
    "lt": _less,
    "max": _maximum,
    "min": _minimum,
    "mul": _product,
    "ne": lambda a, b: _not(_equal(a, b)),
    "neg": _negative,
    "not": _not,
    "or": _or,
    "pow": lambda a, b: _POSITIVE if a.low >= 0 else ANY,
    "round": lambda a: Bounds(*(_whole(x, round) for x in a)),
    "rsqrt": lambda a: _POSITIVE,
    "scatter-add": lambda a, _, b: _sum(a, _many(b)),
    "select_n": _choice,
    "sign": lambda a: Bounds(*(float(np.sign(x)) for x in a)),
    "sqrt": lambda a: Bounds(max(a.low, 0.0) ** 0.5, max(a.high, 0.0) ** 0.5),
    "square": lambda a: _integer_power(a, 2),
    "sub": lambda a, b: _sum(a, _negative(b)),
}
# Zero if all operands are zero.
_ZERO_TO_ZERO = frozenset(_SHAPES) | frozenset((
    "add", "add_any", "complex", "concatenate", "conj", "conv_general_dilated", "cumsum",
    "dynamic_update_slice", "imag", "neg", "pad", "real", "reduce_sum", "scatter", "scatter-add",
    "sub",
))  # fmt: skip
