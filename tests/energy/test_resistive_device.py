"""A device of programmable resistors: what it makes of what it is told, and what is read of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.networks import half_squares

E = tk.energy
KEY, OTHER = jax.random.split(jax.random.key(0))
COUNT = 20_000
TOLD = jax.random.uniform(jax.random.key(3), (COUNT,), minval=1e-3, maxval=1.0)
VOLTS = jax.random.uniform(jax.random.key(4), (7, 9), minval=-1.0, maxval=1.0)
ONES = jnp.ones(COUNT)


def test_a_perfect_device_does_nothing_to_the_bit() -> None:
    device = E.ResistiveDevice()
    factors = device.init(KEY, COUNT)
    np.testing.assert_array_equal(factors, 1)
    np.testing.assert_array_equal(device.program(factors, TOLD, KEY), TOLD)
    np.testing.assert_array_equal(device.read(100 * VOLTS, KEY), 100 * VOLTS)  # and has no bounds


@pytest.mark.parametrize("levels", [2, 3, 64])
def test_a_programmed_conductance_is_the_nearest_level(levels: int) -> None:
    device = E.ResistiveDevice(g_min=0.1, g_max=0.7, levels=levels)
    made = device.program(ONES, TOLD, KEY)
    half = 0.6 / (levels - 1) / 2
    inside = (TOLD >= 0.1) & (TOLD <= 0.7)
    np.testing.assert_allclose(np.unique(np.round(made, 12)), np.linspace(0.1, 0.7, levels))
    assert float(jnp.min(made)) >= 0.1 and float(jnp.max(made)) <= 0.7
    assert float(jnp.max(jnp.abs(made - TOLD)[inside])) <= half * (1 + 1e-9)
    np.testing.assert_allclose(made[TOLD < 0.1], 0.1)
    np.testing.assert_allclose(made[TOLD > 0.7], 0.7)
    np.testing.assert_array_equal(device.program(ONES, made, OTHER), made)  # told again it stays


def test_a_reading_is_the_nearest_code() -> None:
    device = E.ResistiveDevice(adc_bits=3, adc_range=0.5)
    read = device.read(VOLTS, KEY)
    codes = np.linspace(-0.5, 0.5, 8)
    nearest = codes[np.argmin(np.abs(np.asarray(VOLTS)[..., None] - codes), axis=-1)]
    np.testing.assert_allclose(read, nearest, atol=1e-12)


def of_mean_and_spread(samples: jax.Array, mean: float, spread: float) -> None:
    """The mean within 5 standard errors; the spread, too."""
    deviations = np.asarray((samples - mean) ** 2)
    assert abs(float(samples.mean()) - mean) < 5 * spread / len(samples) ** 0.5
    assert abs(deviations.mean() - spread**2) < 5 * deviations.std() / len(samples) ** 0.5


@pytest.mark.parametrize("spread", [0.05, 0.5])
def test_noise_is_unbiased_and_as_large_as_it_says(spread: float) -> None:
    """Relative, positive and of mean 1 for conductances; of mean 0 for readings."""
    device = E.ResistiveDevice(write_noise=spread, mismatch=spread, read_noise=spread)
    factors = device.init(KEY, COUNT)
    written = device.program(ONES, TOLD, KEY) / TOLD
    for samples in (factors, written):
        assert float(jnp.min(samples)) > 0
        of_mean_and_spread(samples, 1, spread)
    of_mean_and_spread(device.read(jnp.zeros(COUNT), KEY), 0, spread)


def test_mismatch_stays_and_noise_is_drawn_anew() -> None:
    device = E.ResistiveDevice(mismatch=0.3, write_noise=0.1, read_noise=0.1)
    factors = device.init(KEY, COUNT)
    first, second = (device.program(factors, TOLD, key) for key in (KEY, OTHER))
    bare = [device.program(ONES, TOLD, key) for key in (KEY, OTHER)]
    np.testing.assert_allclose(first / bare[0], second / bare[1])  # the chip is the same
    correlation = lambda a, b: np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]
    assert abs(correlation(bare[0] / TOLD, bare[1] / TOLD)) < 5 / COUNT**0.5
    assert abs(correlation(factors, device.init(OTHER, COUNT))) < 5 / COUNT**0.5
    assert not np.array_equal(device.read(VOLTS, KEY), device.read(VOLTS, OTHER))


def test_derivatives_pass_as_if_the_device_did_nothing() -> None:
    device = E.ResistiveDevice(0.1, 0.7, 3, 0.1, 0.3, 0.1, adc_bits=2)
    factors = device.init(KEY, COUNT)
    _, told = jax.jvp(lambda g: device.program(factors, g, KEY), (TOLD,), (TOLD,))
    np.testing.assert_array_equal(told, TOLD)
    chip = jax.grad(lambda factors: jnp.sum(device.program(factors, TOLD, KEY)))(factors)
    np.testing.assert_array_equal(chip, 0)
    volts = jax.grad(lambda volts: jnp.sum(device.read(volts, KEY)))(VOLTS)
    np.testing.assert_array_equal(volts, 1)


def test_devices_of_any_spread_side_by_side_and_in_narrow_types() -> None:
    def made(spread: jax.Array) -> jax.Array:
        device = E.ResistiveDevice(mismatch=spread, levels=8)
        return device.program(device.init(KEY, COUNT), TOLD, KEY)

    together = jax.jit(jax.vmap(made))(jnp.asarray([0.0, 0.4]))
    np.testing.assert_allclose(together[1], made(0.4), rtol=1e-12)  # type: ignore[arg-type]
    device = E.ResistiveDevice(mismatch=jnp.asarray(0.4), levels=8, read_noise=0.1, adc_bits=8)
    factors = device.init(KEY, COUNT, jnp.bfloat16)
    narrow = device.program(factors, TOLD.astype(jnp.bfloat16), KEY)
    read = device.read(VOLTS.astype(jnp.bfloat16), KEY)
    assert factors.dtype == narrow.dtype == read.dtype == jnp.bfloat16


def test_nan_stays_nan() -> None:
    device = E.ResistiveDevice(levels=4, adc_bits=4)
    nan = jnp.full(3, jnp.nan)
    assert bool(jnp.all(jnp.isnan(device.program(jnp.ones(3), nan, KEY))))
    assert bool(jnp.all(jnp.isnan(device.read(nan, KEY))))


# Three inputs, three nodes between, two outputs; every node to every node of the next layer.
EDGES = [[i, j] for i in (0, 1, 2) for j in (3, 4, 5)] + [[i, j] for i in (3, 4, 5) for j in (6, 7)]
BATCH = (
    jax.random.normal(jax.random.key(5), (6, 3)),
    0.3 * jax.random.normal(jax.random.key(6), (6, 2)),
)


def test_what_is_read_at_the_outputs_decides_the_error() -> None:
    """The network is as it was; its prediction, and the nudge by it, are those of the instruments."""
    device = E.ResistiveDevice(adc_bits=2)
    measured = lambda volts: device.read(volts, KEY)
    plain, coarse = (E.resistive(EDGES, [0, 1, 2], [6, 7], measured=m) for m in (None, measured))
    params = plain.init(KEY, BATCH[0])
    state = coarse.rest(params, BATCH[0])
    np.testing.assert_array_equal(state, plain.rest(params, BATCH[0]))
    read = coarse.output(params, BATCH[0], state)
    np.testing.assert_array_equal(read, device.read(plain.output(params, BATCH[0], state), KEY))
    cost = lambda output: half_squares(output, BATCH[1])
    linear = lambda output: jnp.sum((read - BATCH[1]) * output, axis=1)  # the error, held
    nudged = coarse.update(params, BATCH[0], state, cost=cost)
    wanted = plain.update(params, BATCH[0], state, cost=linear)
    np.testing.assert_allclose(nudged, wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"g_min": 0}, "`g_min` must be a positive number: got 0"),
        ({"g_max": float("inf")}, "`g_max` must be a positive number: got inf"),
        ({"g_min": 2.0}, r"`g_max` must be above `g_min`, 2.0: got 1.0"),
        ({"levels": 1}, "`levels` must be an int of at least 2: got 1"),
        ({"levels": 2.0}, "`levels` must be an int of at least 2: got 2.0"),
        ({"write_noise": -0.1}, "`write_noise` must be a nonnegative number: got -0.1"),
        ({"mismatch": -1}, "`mismatch` must be a nonnegative number: got -1"),
        ({"mismatch": jnp.ones(2)}, r"`mismatch` must be a nonnegative number: got float64\[2\]"),
        ({"read_noise": float("nan")}, "`read_noise` must be a nonnegative number: got nan"),
        ({"adc_bits": 0}, r"`adc_bits` must be an int in \[1, 32\]: got 0"),
        ({"adc_bits": 33}, r"`adc_bits` must be an int in \[1, 32\]: got 33"),
        ({"adc_range": 0.0}, "`adc_range` must be a positive number: got 0.0"),
    ],
)
def test_a_device_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        E.ResistiveDevice(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.program(jnp.ones(2), jnp.ones(3), KEY), r"`factors` must have the shape of `conductance`, \(3,\): got \(2,\)"),
        (lambda d: d.program(jnp.ones(2), jnp.arange(2), KEY), r"`conductance` must be an array of real numbers: got int64\[2\]"),
        (lambda d: d.program(jnp.ones(2), 1j * jnp.ones(2), KEY), r"`conductance` must be an array of real numbers: got complex128\[2\]"),
        (lambda d: d.init(KEY, -1), "`num_edges` must be an int of at least 0: got -1"),
        (lambda d: d.read(0.3, KEY), r"`voltage` must be an array of real numbers: got"),
    ],
)  # fmt: skip
def test_what_no_device_can_be_told_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(E.ResistiveDevice())
