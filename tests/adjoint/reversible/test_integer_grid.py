"""64-bit arithmetic where JAX has 32 bits, held against Python's integers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toolkit.adjoint.reversible import integer_grid


@pytest.fixture(params=[True, False], autouse=True)
def _with_and_without_64_bits(request: pytest.FixtureRequest):
    with jax.enable_x64(request.param):
        yield


def _random_integers(size: int) -> np.ndarray:
    """Of every magnitude below 2^62, with the extremes."""
    random = np.random.default_rng(0)
    numbers = random.integers(-(2**62), 2**62, size) >> random.integers(0, 62, size)
    return np.concatenate([numbers, [0, 1, -1, 2**62 - 1, -(2**62), 2**32, -(2**32)]])


NUMBERS = _random_integers(2000)


def _to_grid(numbers: np.ndarray) -> jax.Array:
    with jax.enable_x64(True):
        return jnp.asarray(numbers, jnp.int64)


def test_sums_and_differences() -> None:
    a, b = NUMBERS, NUMBERS[::-1]
    for ours, theirs in ((integer_grid.add, a + b), (integer_grid.subtract, a - b)):
        got = jax.jit(ours)(_to_grid(a), _to_grid(b))
        assert got.dtype == jnp.int64
        np.testing.assert_array_equal(got, theirs)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_dropped_bytes_come_back(count: int) -> None:
    dropped = jax.jit(integer_grid.drop_bytes)(_to_grid(NUMBERS), jnp.asarray(count))
    np.testing.assert_array_equal(dropped, NUMBERS // 256**count)
    for place in reversed(range(count)):
        byte = integer_grid.low_byte(_to_grid(NUMBERS), place)
        np.testing.assert_array_equal(byte, NUMBERS // 256**place % 256)
        dropped = jax.jit(integer_grid.append_byte)(dropped, byte)
    np.testing.assert_array_equal(dropped, NUMBERS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_are_rounded_towards_zero_and_come_back(dtype: str) -> None:
    if not jax.config.jax_enable_x64 and dtype == "float64":
        pytest.skip("JAX has no float64 now")
    random = np.random.default_rng(1)
    x = jnp.asarray(random.normal(size=1000) * 10.0 ** random.integers(-1, 18, 1000), dtype)
    on_grid = jax.jit(integer_grid.to_grid)(x)
    expected = [int(value) for value in np.asarray(x, np.float64).tolist()]
    np.testing.assert_array_equal(on_grid, expected)
    back = jax.jit(lambda a: integer_grid.to_float(a, x.dtype))(_to_grid(NUMBERS))
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, NUMBERS.astype(dtype))


def test_what_does_not_fit_is_reported() -> None:
    x = jnp.asarray([1.0, jnp.nan, jnp.inf, -jnp.inf, 2.0**62, -(2.0**62), 4e18])
    np.testing.assert_array_equal(
        integer_grid.fits(x), [True, False, False, False, False, False, True]
    )
    numbers = _to_grid(np.asarray([2**62 - 1, 2**62, -(2**62), 1 - 2**62, 0]))
    np.testing.assert_array_equal(integer_grid.fits(numbers), [True, False, False, True, True])
