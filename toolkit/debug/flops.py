"""Floating-point operations of a computation, counted from its jaxpr.

A sum, a product, a maximum or a function such as `exp` counts as one operation an entry, a matrix
product as two an entry and term. Moves, casts, comparisons, choices and integers count nothing. The
body of a scan counts once for each step. A conditional counts as a range, from its cheapest branch to
its dearest. XLA's own cost analysis is not used, as it counts the body of a loop once, whatever its length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from toolkit.debug.source_lines import NOWHERE, SourceLine, lines
from toolkit.jaxprs.loops import branches, scan_parts, shard_parts, solve_parts, while_parts
from toolkit.jaxprs.operations import contracted_axes, convolved_channels, window_size
from toolkit.jaxprs.read import called, inner, opened

# Nothing is computed: moves, casts, comparisons, choices, integers and random bits.
_FREE = frozenset((
    "and", "argmax", "argmin", "axis_index", "bitcast_convert_type", "broadcast_in_dim", "clamp",
    "complex", "concatenate", "conj", "convert_element_type", "copy", "copy_p", "debug_callback",
    "debug_print", "device_put", "dynamic_slice", "dynamic_update_slice", "empty", "empty2", "eq",
    "expand_dims", "full_like", "gather", "ge", "gt", "imag", "iota", "is_finite", "le", "lt",
    "name", "ne", "nextafter", "not", "optimization_barrier", "or", "pad", "pvary", "random_bits",
    "random_clone", "random_fold_in", "random_seed", "random_split", "random_unwrap", "random_wrap",
    "real", "reduce_and", "reduce_or", "reduce_precision", "reduce_xor", "reshape", "rev",
    "scatter", "select_n", "sharding_constraint", "shift_left", "shift_right_arithmetic",
    "shift_right_logical", "sign", "slice", "sort", "split", "squeeze", "stack", "stop_gradient",
    "threefry2x32", "tie", "tile", "top_k", "transpose", "unstack", "xor", "zeros_like",
))  # fmt: skip
# One operation for each entry of the result.
_EACH = frozenset((
    "abs", "acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh", "cbrt",
    "ceil", "cos", "cosh", "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "digamma",
    "div", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "integer_pow", "lgamma",
    "log", "log1p", "logistic", "max", "min", "mul", "neg", "pow", "rem", "round", "rsqrt", "sin",
    "sinh", "sqrt", "square", "sub", "tan", "tanh",
))  # fmt: skip
# One operation for each entry that is read.
_SUMS = frozenset({"reduce_max", "reduce_min", "reduce_prod", "reduce_sum"})
# Real operations of one complex operation: (a + ib)(c + id) takes four products and two sums.
_COMPLEX = {"add": 2, "sub": 2, "neg": 2, "add_any": 2, "mul": 6, "reduce_sum": 2}
_LISTED = 3  # reasons that are printed


class Unknown(NamedTuple):
    """An equation that runs an unknown number of times, or whose cost is not known."""

    text: str
    low: int | None = None  # operations each time
    high: int = 0

    def __str__(self) -> str:
        return (
            self.text if self.low is None else f"{self.text} ({_range(self.low, self.high)} a step)"
        )


@dataclass(frozen=True)
class Flops:
    """Bounds on the operations that are known, and a list of what is not."""

    low: int = 0
    high: int = 0
    unknown: tuple[Unknown, ...] = ()

    def __add__(self, other: Flops) -> Flops:
        found = _joined([*self.unknown, *other.unknown])
        return Flops(self.low + other.low, self.high + other.high, found)

    @property
    def once(self) -> int:
        """The most that is known, with loops of unknown length run once and unknown operations left out."""
        return self.high + sum(one.high for one in self.unknown)

    def times(self, number: int) -> Flops:
        """The operations of so many runs."""
        return Flops(self.low * number, self.high * number, self.unknown if number else ())

    def __str__(self) -> str:
        known = _range(self.low, self.high)
        if not self.unknown:
            return known
        more = len(self.unknown) - _LISTED
        listed = ", ".join(map(str, self.unknown[:_LISTED])) + (f" and {more} more" * (more > 0))
        return f"unknown: {known} without {listed}"


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _joined(unknown: Sequence[Unknown]) -> tuple[Unknown, ...]:
    """Unknowns of one text as one, with the widest bounds among them."""
    found: dict[str, Unknown] = {}
    for one in unknown:
        old = found.setdefault(one.text, one)
        if old.low is not None and one.low is not None:
            found[one.text] = Unknown(one.text, min(old.low, one.low), max(old.high, one.high))
    return tuple(found.values())


def count(computation: Any) -> Flops:
    """The operations of a jaxpr."""
    return _counted(computation, NOWHERE)


def _counted(computation: Any, around: SourceLine) -> Flops:
    jaxpr, _ = opened(computation)
    total = Flops()
    for equation in jaxpr.eqns:
        here = lines(equation)[0]
        total += _equation(equation, around if here == NOWHERE else here)
    return total


def _equation(equation: Any, place: SourceLine) -> Flops:
    name = equation.primitive.name
    if (program := called(equation)) is not None:
        return _counted(program, place)
    if name in _RULES:
        return _RULES[name](equation, place)
    if name in _FREE:
        return Flops()
    # An unknown primitive that runs programs: how often it runs them is not known.
    if any(True for _ in inner(equation)):
        return Flops(unknown=(Unknown(f"`{name}` at {place}"),))
    results = [v.aval for v in equation.outvars if hasattr(v.aval, "dtype")]
    read = [v.aval for v in equation.invars if hasattr(v.aval, "dtype")]
    if not any(jnp.issubdtype(aval.dtype, jnp.inexact) for aval in results):
        return Flops()
    each = 1
    if any(jnp.issubdtype(aval.dtype, jnp.complexfloating) for aval in (*results, *read)):
        each = _COMPLEX.get(name, 0)  # 0: how many real operations it takes is not settled
    if each and name in _EACH:
        return _exactly(each * sum(math.prod(aval.shape) for aval in results))
    if each and name in _SUMS:
        return _exactly(each * math.prod(read[0].shape))
    return Flops(unknown=(Unknown(f"`{name}` at {place}"),))


def _exactly(number: int) -> Flops:
    return Flops(number, number)


def _dot(equation: Any, _: SourceLine) -> Flops:
    left, result = equation.invars[0].aval, equation.outvars[0].aval
    terms = math.prod(left.shape[axis] for axis in contracted_axes(equation))
    return _exactly(_product(result, terms))


def _convolution(equation: Any, _: SourceLine) -> Flops:
    kernel, result = equation.invars[1].aval, equation.outvars[0].aval
    # Each entry of the result sums over a window and the input channels: all of the kernel's entries that
    # belong to one output channel.
    terms = math.prod(kernel.shape) // max(convolved_channels(equation), 1)
    return _exactly(_product(result, terms))


def _product(result: Any, terms: int) -> int:
    if not jnp.issubdtype(result.dtype, jnp.inexact):
        return 0
    # A product and a sum for each term; of complex numbers 6 + 2.
    each = 8 if jnp.issubdtype(result.dtype, jnp.complexfloating) else 2
    return each * math.prod(result.shape) * terms


def _added_into(equation: Any, _: SourceLine) -> Flops:
    """One sum for each entry of the update; two if it is complex."""
    update = equation.invars[2].aval
    each = 2 if jnp.issubdtype(update.dtype, jnp.complexfloating) else 1
    return (
        _exactly(each * math.prod(update.shape))
        if jnp.issubdtype(update.dtype, jnp.inexact)
        else Flops()
    )


def _windowed(equation: Any, _: SourceLine) -> Flops:
    return _exactly(window_size(equation) * math.prod(equation.outvars[0].aval.shape))


def _one_minus_square(equation: Any, _: SourceLine) -> Flops:
    return _exactly(2 * math.prod(equation.outvars[0].aval.shape))


def _scan(equation: Any, place: SourceLine) -> Flops:
    loop = scan_parts(equation)
    return _counted(loop.body, place).times(loop.length)


def _while(equation: Any, place: SourceLine) -> Flops:
    loop = while_parts(equation)
    # How often it runs depends on data, so the cost of one step is given in place of the whole.
    one = _counted(loop.condition, place) + _counted(loop.body, place)
    if not one.high and not one.unknown:
        return Flops()
    loops = Unknown(f"while loops at {place}", one.low, one.high)
    return Flops(unknown=_joined([loops, *one.unknown]))


def _solve(equation: Any, place: SourceLine) -> Flops:
    return _counted(solve_parts(equation).solve, place)


def _spread(equation: Any, place: SourceLine) -> Flops:
    # Each device runs the body, on its own part of the arrays.
    spread = shard_parts(equation)
    devices = math.prod(spread.mesh.shape[axis] for axis in spread.axes)
    return _counted(spread.body, place).times(devices)


def _cond(equation: Any, place: SourceLine) -> Flops:
    counts = [_counted(one, place) for one in branches(equation)]
    unknown = _joined([reason for one in counts for reason in one.unknown])
    return Flops(min(one.low for one in counts), max(one.high for one in counts), unknown)


def _cholesky(equation: Any, _: SourceLine) -> Flops:
    shape = equation.invars[0].aval.shape  # [..., n, n]; n^3 / 3 operations for each matrix
    return _exactly(math.prod(shape[:-2]) * shape[-1] ** 3 // 3)


def _triangular_solve(equation: Any, _: SourceLine) -> Flops:
    # Substitution takes a product and a sum for each entry of the triangle: n^2 for each right-hand side of
    # n.
    matrix, right = equation.invars[0].aval, equation.invars[1].aval
    return _exactly(math.prod(right.shape) * matrix.shape[-1])


_RULES: Mapping[str, Callable[[Any, SourceLine], Flops]] = {
    "cholesky": _cholesky,
    "cond": _cond,
    "conv_general_dilated": _convolution,
    "custom_linear_solve": _solve,
    "dot_general": _dot,
    "one_minus_square": _one_minus_square,  # of tanh's derivative, since jax 0.12
    "reduce_window_max": _windowed,
    "reduce_window_sum": _windowed,
    "scan": _scan,
    "shard_map": _spread,
    **dict.fromkeys(("scatter-add", "scatter-max", "scatter-min", "scatter-sub"), _added_into),
    "triangular_solve": _triangular_solve,
    "while": _while,
}
