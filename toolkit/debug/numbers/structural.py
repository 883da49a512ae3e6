"""Which numbers are structure: small integers, shapes, limits of a type, mathematics."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

_SMALL = 2  # up to here an integer is structure
_LARGEST_SCANNED = 1_000_000  # entries; larger arrays are data
# Relative: numbers that were rounded to float32, and went through one operation, still agree.
_TOLERANCE = 2e-6
_ROUNDINGS = 4096  # a library's tolerances are small multiples of its dtype's rounding, as 10 * eps

_IRRATIONAL = (math.pi, math.sqrt(math.pi), math.sqrt(2 * math.pi), math.sqrt(2), math.e)
_LOGARITHMS = (math.log(2), math.log(10), math.log(math.pi), math.log(2 * math.pi))
_MATHEMATICAL = tuple(
    value * factor
    for constant in (*_IRRATIONAL, *_LOGARITHMS)
    for value in (constant, 1 / constant)
    for factor in (1 / 180, 1 / 4, 1 / 3, 1 / 2, 1, 2, 3, 4, 180)
)


def scalar(constant: Any) -> Any:
    """The one number that an array is filled with, as Python would print it; None where there is none."""
    if isinstance(constant, (int, float, complex)):  # JAX has subclasses of them that bear a dtype
        constant = np.asarray(constant)
    if not (jnp.issubdtype(constant.dtype, jnp.number) and 0 < constant.size <= _LARGEST_SCANNED):
        return None
    array = np.asarray(constant)
    first = array.flat[0]
    if array.size > 1 and not (array == first).all():
        return None
    if jnp.issubdtype(array.dtype, jnp.integer):
        return int(first)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return complex(first)
    # 0.1 becomes 0.10000000149 in float32. NumPy prints the shortest decimal that rounds to the same
    # number, which is the one that the user wrote.
    return float(str(first))


def is_structure(value: Any, dtype: Any) -> bool:
    """Whether a number says nothing but how the computation is built, whatever wrote it."""
    if isinstance(value, complex):
        return is_structure(value.real, np.float64) and is_structure(value.imag, np.float64)
    if not math.isfinite(value) or (value == int(value) and abs(value) <= _SMALL):
        return True
    if isinstance(value, int):
        return value in _integer_limits(dtype)
    return any(is_close(value, limit) for limit in _limits(dtype)) or is_mathematics(value)


def is_guard(value: Any, dtype: Any) -> bool:
    """Whether a library's number only keeps floating arithmetic in its range or above its rounding."""
    size = abs(value)
    if isinstance(value, int) or not jnp.issubdtype(dtype, jnp.inexact):
        return False
    eps = float(jnp.finfo(dtype).eps)
    # Tolerances of libraries are multiples or roots of the rounding; bounds near the ends of the range keep
    # numbers from overflow.
    units = size / eps
    whole = 0 < units <= _ROUNDINGS and is_close(units, round(units))
    root = any(is_close(size, eps**power) for power in (1 / 4, 1 / 3, 2 / 3, 3 / 4))
    return root or (whole and size < 1e-3) or not 1e-30 < size < 1e30


def is_mathematics(value: float) -> bool:
    """Whether it is a small multiple of pi, e, a square root or a logarithm of small integers."""
    return any(is_close(abs(value), known) for known in _MATHEMATICAL)


def is_close(a: Any, b: Any) -> bool:
    """Whether two numbers are one, rounded to float32 or not."""
    return a == b or bool(abs(a - b) <= _TOLERANCE * abs(b))


@functools.lru_cache(1024)
def of_shapes(shapes: tuple[tuple[int, ...], ...]) -> frozenset[float]:
    """What programs make of the lengths and sizes of arrays: n, n - 1, their inverses and roots."""
    lengths = {n for shape in shapes for n in (*shape, math.prod(shape))}
    lengths |= {n - 1 for n in lengths}
    return frozenset(form for n in lengths if n > _SMALL for form in _of_length(n))


def _of_length(n: int) -> Iterator[float]:
    yield from (n, 1 / n, math.sqrt(n), 1 / math.sqrt(n), math.log(n))


class Supplied:
    """Numbers that a config or an argument gives, and what programs make of them."""

    def __init__(self, values: Iterable[Any]) -> None:
        given = {abs(value) for value in values if math.isfinite(value)}
        whole = sorted(n for n in given if n == int(n) and n > 0)
        # Programs multiply and divide the numbers of a config: steps a epoch times epochs, n // batch.
        products = {a * b for a, b in itertools.combinations_with_replacement(whole, 2)}
        ratios = {a // b for a, b in itertools.permutations(whole, 2)}
        forms = itertools.chain(*map(_made_of, given), *(_of_length(int(n)) for n in whole))
        self._forms = np.asarray(sorted({*forms, *products, *ratios}), float)

    def explains(self, value: Any) -> bool:
        """Whether `value`, its sign aside, is one of the numbers or made of one."""
        if not self._forms.size:
            return False
        size = abs(value)
        at = int(np.searchsorted(self._forms, size))
        near = self._forms[max(at - 1, 0) : at + 1]
        return any(is_close(size, form) for form in near)


def _made_of(value: float) -> Iterator[float]:
    """What programs commonly make of one setting: 1 - b of a decay, a square, a logarithm, log-odds."""
    yield from (value, value / 2, 2 * value, value**2, math.sqrt(value), abs(1 - value))
    if value:
        yield from (1 / value, 1 / (1 + value), abs(math.log(value)), abs(math.log1p(value)))
    if value < 1:
        yield from (math.sqrt(1 - value), math.sqrt(1 - value**2))
    if 0 < value < 1:
        odds = value / (1 - value)
        yield from (1 / (1 - value), odds, 1 / odds, abs(math.log(odds)))
    if value < 80:  # exp(89) is infinite in float32
        yield from (math.exp(value), math.exp(-value))


def _limits(dtype: Any) -> tuple[float, ...]:
    if not jnp.issubdtype(dtype, jnp.floating):
        return ()
    info = jnp.finfo(dtype)
    found = [float(x) for x in (info.max, info.min, info.tiny, info.eps)]
    return (*found, info.max.item() / 2, -info.max.item() / 2, math.sqrt(info.eps))


def _integer_limits(dtype: Any) -> tuple[int, ...]:
    info = jnp.iinfo(dtype)
    return int(info.min), int(info.max), -int(info.max)
