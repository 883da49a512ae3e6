"""`ResistiveDevice`: what programmable resistors make of the conductances that they are told.

    device = tk.energy.ResistiveDevice(levels=64, write_noise=0.02, mismatch=0.2, adc_bits=8)
    factors = device.init(chip_key, len(edges))     # one chip, for good
    energy = tk.energy.resistive(
        edges, inputs, outputs,
        realised=lambda g: device.program(factors, g, write_key),
        measured=lambda volts: device.read(volts, read_key),
    )

A told conductance g becomes

    p = g, held in [g_min, g_max], at the nearest of `levels` values         programmed
    realised = p w m,     w anew at each write, m fixed for each resistor    write noise, mismatch

with w and m lognormal, of mean 1: a conductance stays positive. A voltage V is read as

    the nearest of 2^adc_bits values in [-adc_range, adc_range] to  V + read_noise n,   n ~ N(0, 1).
"""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge, Interval
from jax import Array
from jax.typing import DTypeLike

from toolkit import tree
from toolkit.settings import Natural, NonNegative, Number, Positive, require, settings


@settings("resistive_device")
class ResistiveDevice:
    """A technology of programmable resistors with its instruments; the defaults are perfect ones.

    Readings are those of the outputs; the voltage drops that resistors learn from are used where they are.

    Both methods let a derivative pass as if they did nothing: a resistor learns from the voltage drop
    that is there, without knowing what it was told. So the gradient of a network by what its resistors are
    told is that by the conductances that they have.

    Args:
      g_min, g_max: the range of what can be programmed, in siemens.
      levels: evenly spaced conductances from `g_min` to `g_max`, at least 2; None: all.
      write_noise: relative standard deviation, drawn at each write.
      mismatch: relative standard deviation from resistor to resistor, fixed when the chip is made.
      read_noise: standard deviation in volts, drawn at each reading.
      adc_bits: a reading is one of `2^adc_bits` voltages, from 1 to 32 bits; None: all, and no bounds.
      adc_range: the largest voltage that the converter tells from larger ones, in volts.

    Raises:
      ValueError: a value out of its range, `g_max` not above `g_min`.

    Source: Kendall, Pantone, Manickavasagam, Bengio & Scellier 2020: programmable resistors that learn in place.
    """

    g_min: Positive = 1e-3
    g_max: Positive = 1.0
    levels: Annotated[int, Ge(2)] | None = None
    write_noise: NonNegative = 0.0
    mismatch: NonNegative = 0.0
    read_noise: NonNegative = 0.0
    adc_bits: Annotated[int, Interval(ge=1, le=32)] | None = None
    adc_range: Positive = 1.0

    def __post_init__(self) -> None:
        known = not isinstance(self.g_min, Array) and not isinstance(self.g_max, Array)
        if known and self.g_min >= self.g_max:
            raise ValueError(f"`g_max` must be above `g_min`, {self.g_min}: got {self.g_max}.")

    def init(self, key: Array, num_edges: int, dtype: DTypeLike = float) -> Array:
        """The mismatch of a chip: what each of its resistors has for each siemens that it should, `[E]`."""
        require("num_edges", num_edges, Natural)
        return _lognormal(key, self.mismatch, (num_edges,), dtype)

    def program(self, factors: Array, conductance: Array, key: Array) -> Array:
        """What the resistors of a chip have when they are told a conductance.

        Args:
          factors: of `init`, `[E]`.
          conductance: told, `[E]`, in siemens.
          key: of this write.

        Raises:
          ValueError: the two have different shapes; `conductance` is no array of real numbers.

        Returns: `[E]`, in siemens, positive. Mismatch and noise may carry it beyond `g_min` and `g_max`.

        Differentiation: the derivative by `conductance` is 1, that by all else 0.
        """
        conductance = _real("conductance", conductance)
        if factors.shape != conductance.shape:
            raise ValueError(
                f"`factors` must have the shape of `conductance`, {conductance.shape}: got "
                f"{factors.shape}; make them by device.init(key, {conductance.size})."
            )
        steps = None if self.levels is None else self.levels - 1
        programmed = _rounded(conductance, self.g_min, self.g_max, steps)
        written = _lognormal(key, self.write_noise, conductance.shape, conductance.dtype)
        return _in_place_of(conductance, programmed * written * factors)

    def read(self, voltage: Array, key: Array) -> Array:
        """What the instruments say of a voltage, of any shape, in volts; `key` is of this reading.

        Raises:
          ValueError: `voltage` is no array of real numbers.

        Differentiation: the derivative by `voltage` is 1, that by all else 0.
        """
        voltage = _real("voltage", voltage)
        noise = jax.random.normal(key, voltage.shape, voltage.dtype)
        read = voltage + self.read_noise * noise
        if self.adc_bits is not None:
            read = _rounded(read, -self.adc_range, self.adc_range, 2**self.adc_bits - 1)
        return _in_place_of(voltage, read)


def _real(name: str, value: Any) -> Array:
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"`{name}` must be an array of real numbers: got {tree.describe(value)}.")
    return jnp.asarray(value)


def _rounded(values: Array, low: Number, high: Number, steps: int | None) -> Array:
    """The nearest of `steps + 1` evenly spaced values from `low` to `high`; of all between them for None."""
    if steps is not None:
        step = (high - low) / steps
        values = low + jnp.round((values - low) / step) * step
    return jnp.clip(values, low, high)


def _lognormal(key: Array, spread: Number, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Positive factors of mean 1 and standard deviation `spread`."""
    # exp(s n - s^2 / 2) has mean 1 and variance exp(s^2) - 1 for n ~ N(0, 1).
    s = jnp.sqrt(jnp.log1p(jnp.square(spread)))
    return jnp.exp(s * jax.random.normal(key, shape, dtype) - s**2 / 2).astype(dtype)


def _in_place_of(told: Array, made: Array) -> Array:
    """The value of `made`, with the derivative of `told`."""

    @jax.custom_jvp
    def passed(told: Array, made: Array) -> Array:
        return made

    @passed.defjvp
    def slope(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
        return primals[1], tangents[0]

    return passed(told, made.astype(told.dtype))
