"""64-bit arithmetic in two halves, held against Python's integers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toolkit.adjoint import grid
from toolkit.adjoint.grid import FRACTION_BITS, Grid


def _random_integers(size: int) -> np.ndarray:
    """Of every magnitude below 2^62, with the extremes."""
    random = np.random.default_rng(0)
    numbers = random.integers(-(2**62), 2**62, size) >> random.integers(0, 62, size)
    return np.concatenate([numbers, [0, 1, -1, 2**62 - 1, -(2**62), 2**32, -(2**32)]])


NUMBERS = _random_integers(2000)


def _to_grid(numbers: np.ndarray) -> Grid:
    bits = numbers.astype(np.uint64)
    return Grid(jnp.asarray(bits >> 32, jnp.uint32), jnp.asarray(bits & 0xFFFFFFFF, jnp.uint32))


def _to_integers(a: Grid) -> np.ndarray:
    bits = (np.asarray(a.hi, np.uint64) << np.uint64(32)) | np.asarray(a.lo, np.uint64)
    return bits.astype(np.int64)


def test_sums_and_differences() -> None:
    a, b = NUMBERS, NUMBERS[::-1]
    np.testing.assert_array_equal(_to_integers(grid.add(_to_grid(a), _to_grid(b))), a + b)
    np.testing.assert_array_equal(_to_integers(grid.subtract(_to_grid(a), _to_grid(b))), a - b)


@pytest.mark.parametrize("divisor", [1, 2, 9, 10, 255, 4097, 32768, 65535])
def test_long_division_and_its_inverse(divisor: int) -> None:
    small = jnp.uint32(divisor)
    quotient, rest = jax.jit(grid.divide)(_to_grid(NUMBERS), small)
    np.testing.assert_array_equal(_to_integers(quotient), NUMBERS // divisor)
    np.testing.assert_array_equal(rest, NUMBERS % divisor)
    back = jax.jit(grid.multiply_add)(quotient, small, rest)
    np.testing.assert_array_equal(_to_integers(back), NUMBERS)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_floats_are_rounded_towards_zero_and_come_back(dtype: type) -> None:
    random = np.random.default_rng(1)
    x = jnp.asarray(random.normal(size=1000) * 10.0 ** random.integers(-12, 6, 1000), dtype)
    on_grid, fits = jax.jit(grid.to_grid)(x)
    assert fits.all()
    expected = [int(value * 2**FRACTION_BITS) for value in np.asarray(x, np.float64).tolist()]
    np.testing.assert_array_equal(_to_integers(on_grid), expected)
    exact = np.asarray(expected, np.float64) / 2**FRACTION_BITS
    # Both halves and their sum are rounded.
    np.testing.assert_allclose(
        jax.jit(lambda a: grid.to_float(a, dtype))(on_grid), exact, rtol=2 * jnp.finfo(dtype).eps
    )


def test_what_does_not_fit_is_reported() -> None:
    x = jnp.asarray([1.0, jnp.nan, jnp.inf, -jnp.inf, 1e8, -1e8, 4e6])
    on_grid, fits = grid.to_grid(x)
    np.testing.assert_array_equal(fits, [True, False, False, False, False, False, True])
    assert grid.in_range(on_grid).all()
    assert not grid.in_range(grid.add(_to_grid(np.asarray([2**62 - 1])), _to_grid(np.asarray([1]))))
