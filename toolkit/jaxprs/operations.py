"""What single operations are told besides their operands, as the parameters of their equations say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def name_called(equation: Any) -> str:
    """The name of the function that a `jit` calls; empty where it has none."""
    return str(equation.params.get("name") or "")


def exponent(equation: Any) -> int:
    """`n` of the `integer_pow` that makes `x ** n`."""
    return equation.params["y"]


def numbered(equation: Any) -> int:
    """How many numbers an `iota` counts: it makes 0 to this, less one."""
    return equation.params["shape"][equation.params["dimension"]]


def filling(equation: Any) -> Any:
    """What a `gather` returns for indices outside of its operand; None where it does not fill."""
    return equation.params["fill_value"]


def contracted_axes(equation: Any) -> Sequence[int]:
    """The axes of the first operand that a `dot_general` sums over."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    return contracted


def convolved_channels(equation: Any) -> int:
    """How many channels a `conv_general_dilated` makes, an axis of its kernel (the second operand)."""
    axis = equation.params["dimension_numbers"].rhs_spec[0]
    return equation.invars[1].aval.shape[axis]


def window_size(equation: Any) -> int:
    """How many entries a `reduce_window_*` reads for each that it makes."""
    return math.prod(equation.params["window_dimensions"])
