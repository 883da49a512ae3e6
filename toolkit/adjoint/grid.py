"""Real numbers on a grid, as 64-bit integers in two halves: addition that can be undone to the bit.

JAX has no 64-bit integers unless `jax_enable_x64` is set, so a number is a pair of `uint32` arrays,
`hi` and `lo`, in two's complement, in units of `2^-FRACTION_BITS`.

Letters: `N` numbers. A *small* number is a scalar `uint32` of at most 16 bits: each digit of a long
division by it then fits in 32.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

FRACTION_BITS = 40  # a unit is 9e-13
BOUND = 2.0 ** (62 - FRACTION_BITS)  # 4.2e6; a sum of two numbers below it cannot wrap around


class Grid(NamedTuple):
    """`N` numbers `(hi * 2^32 + lo) * 2^-FRACTION_BITS`, `hi` signed."""

    hi: Array  # [N] uint32
    lo: Array  # [N] uint32


def to_grid(x: Array) -> tuple[Grid, Array]:
    """`x` rounded towards zero, and where it could be: `[N]` bool, False for NaN and beyond BOUND.

    Every operation but the last truncation is exact, so no compiler can make two answers of it.
    """
    size = jnp.abs(x) * 2.0 ** (FRACTION_BITS - 32)
    fits = size < 2.0**30
    size = jnp.where(fits, size, 0)
    whole = jnp.floor(size)
    magnitude = Grid(whole.astype(jnp.uint32), ((size - whole) * 2.0**32).astype(jnp.uint32))
    return _negate_where(x < 0, magnitude), fits


def to_float(a: Grid, dtype: jnp.dtype) -> Array:
    """`a` as `float32` or `float64`, within two roundings; the same answer wherever compiled."""
    negative = _is_negative(a)
    magnitude = _negate_where(negative, a)
    # Scaling by a power of two is exact, so that contracting it into the sum changes nothing.
    hi = magnitude.hi.astype(dtype) * 2.0 ** (32 - FRACTION_BITS)
    lo = magnitude.lo.astype(dtype) * 2.0**-FRACTION_BITS
    return jnp.where(negative, -(hi + lo), hi + lo)


def in_range(a: Grid) -> Array:
    """Where `|a| < BOUND`; `[N]` bool."""
    return a.hi + jnp.uint32(1 << 30) < jnp.uint32(1 << 31)


def equal(a: Grid, b: Grid) -> Array:
    """Whether all numbers agree to the bit; `[]` bool."""
    return jnp.all((a.hi == b.hi) & (a.lo == b.lo))


def add(a: Grid, b: Grid) -> Grid:
    """`a + b`."""
    lo = a.lo + b.lo
    return Grid(a.hi + b.hi + (lo < b.lo), lo)


def subtract(a: Grid, b: Grid) -> Grid:
    """`a - b`."""
    return Grid(a.hi - b.hi - (a.lo < b.lo), a.lo - b.lo)


def multiply_add(a: Grid, factor: Array, addend: Array) -> Grid:
    """`a * factor + addend` in units of the grid, for a small `factor` and `addend < factor`."""
    low = (a.lo & 0xFFFF) * factor + addend
    high = (a.lo >> 16) * factor + (low >> 16)
    return Grid(a.hi * factor + (high >> 16), (high << 16) | (low & 0xFFFF))


def divide(a: Grid, divisor: Array) -> tuple[Grid, Array]:
    """Quotient rounded down, and remainder in `[0, divisor)`, for a small `divisor`."""
    # floor(a / b) = ~(~a // b) for negative a, where ~a = -1 - a is not.
    sign = jnp.where(_is_negative(a), jnp.uint32(0xFFFFFFFF), jnp.uint32(0))
    hi, lo = a.hi ^ sign, a.lo ^ sign
    quotients, rest = [], jnp.zeros_like(hi)
    for digit in (hi >> 16, hi & 0xFFFF, lo >> 16, lo & 0xFFFF):
        quotient, rest = divide_small((rest << 16) | digit, divisor)
        quotients.append(quotient)
    q = Grid((quotients[0] << 16) | quotients[1], (quotients[2] << 16) | quotients[3])
    return Grid(q.hi ^ sign, q.lo ^ sign), jnp.where(sign == 0, rest, divisor - 1 - rest)


def divide_small(a: Array, divisor: Array) -> tuple[Array, Array]:
    """Quotient and remainder of `uint32` numbers."""
    quotient = a // divisor
    return quotient, a - quotient * divisor


def _is_negative(a: Grid) -> Array:
    return a.hi >> 31 == 1


def _negate_where(negative: Array, a: Grid) -> Grid:
    hi = jnp.where(negative, ~a.hi + (a.lo == 0), a.hi)
    return Grid(hi, jnp.where(negative, ~a.lo + 1, a.lo))
