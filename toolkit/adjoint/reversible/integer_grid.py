"""Real numbers on a grid, as 64-bit integers: addition that can be undone to the bit.

JAX makes no 64-bit integers unless `jax_enable_x64` is set. Every function here sets it for its own
operations only, so that the types in the user's code stay what they are. An array once made keeps its
64-bit type outside, too.

Letters: `N` numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

LARGEST = 2.0**62  # all integers stay below this, so that a sum of two of them cannot wrap around
BYTE = 8

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _wide(fun: Callable[_P, _R]) -> Callable[_P, _R]:
    """`fun`, run with 64-bit types enabled."""

    @functools.wraps(fun)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with jax.enable_x64(True):
            return fun(*args, **kwargs)

    return run


@_wide
def to_grid(x: Array) -> Array:
    """`x: [N]` rounded towards zero, as `[N]` int64; any number where it does not fit."""
    return x.astype(jnp.int64)


@_wide
def to_float(a: Array, dtype: jnp.dtype) -> Array:
    """`a` as `float32` or `float64`, rounded once."""
    return a.astype(dtype)


@_wide
def fits(x: Array) -> Array:
    """Where `x: [N]`, floating or int64, is smaller than LARGEST; `[N]` bool, False for NaN."""
    bound = jnp.asarray(LARGEST, x.dtype)
    return (x < bound) & (x > -bound)


@_wide
def add(a: Array, b: Array) -> Array:
    """`a + b`."""
    return a + b


@_wide
def subtract(a: Array, b: Array) -> Array:
    """`a - b`."""
    return a - b


@_wide
def low_byte(a: Array, place: int) -> Array:
    """The byte at a place, counted from the lowest; `[N]` uint8."""
    return (a >> (BYTE * place)).astype(jnp.uint8)


@_wide
def drop_bytes(a: Array, count: Array) -> Array:
    """`a / 256**count`, rounded down: without its `count` lowest bytes."""
    return a >> (BYTE * count).astype(a.dtype)


@_wide
def append_byte(a: Array, byte: Array) -> Array:
    """Undo `drop_bytes(a, 1)`, given the byte."""
    return (a << BYTE) | byte.astype(a.dtype)


@_wide
def equal(a: Array, b: Array) -> Array:
    """Whether all numbers agree; `[]` bool."""
    return jnp.all(a == b)
