"""The circuit of `analog_network`: its resistors, what it reads, what it says."""

from __future__ import annotations

from functools import partial
from itertools import pairwise, product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import toolkit as tk

NUM_INPUTS = 129
NUM_CLASSES = 10
Batch = tuple[Array, Array]  # voltages [B, 129], labels [B]


class Data(NamedTuple):
    """Two parts of the digits, and the edges of the circuit."""

    training: Batch
    held_out: Batch
    wires: Array


def volts(images: Array) -> Array:
    """`[B, 129]`, what the inputs are held at: pixels, their negatives, one volt.

    No resistor weighs a voltage with a negative number, so each voltage comes with its negative.
    """
    return jnp.concatenate([images, -images, jnp.ones((len(images), 1))], axis=1)


def wiring(hidden: int) -> tuple[np.ndarray, range, range]:
    """(edges `[E, 2]`, input nodes, output nodes): every node to every node of the next kind."""
    ends = np.cumsum([NUM_INPUTS, hidden, 2 * NUM_CLASSES]).tolist()
    inputs, between, outputs = (range(a, b) for a, b in pairwise([0, *ends]))
    return np.array([*product(inputs, between), *product(between, outputs)]), inputs, outputs


def network(wires: Array, **device: Any) -> tk.energy.EnergyModel:
    """The resistors; `device` is `realised` and `measured`, without which they are perfect.

    Args:
      wires: the edges, as an argument of the program.
    """
    hidden = len(wires) // (NUM_INPUTS + 2 * NUM_CLASSES)
    return tk.energy.resistive(*wiring(hidden), wires=wires, **device)


def chip(
    wires: Array, device: tk.energy.ResistiveDevice, factors: Array, key: Array
) -> tk.energy.EnergyModel:
    """The resistors of a chip after a write, with its instruments."""
    write_key, read_key = jax.random.split(key)
    return network(
        wires,
        realised=partial(device.program, factors, key=write_key),
        measured=partial(device.read, key=read_key),
    )


def rounded(device: tk.energy.ResistiveDevice, told: Array) -> Array:
    """What resistors without noise and mismatch have; gradients pass as if nothing were rounded."""
    perfect = tk.energy.ResistiveDevice(device.g_min, device.g_max, device.levels)
    return perfect.program(jnp.ones_like(told), told, jax.random.key(0))


def output_of(energy: tk.energy.EnergyModel, conductance: Array, x: Array) -> Array:
    """`[B, 20]` voltages."""
    params = {"conductance": conductance}
    return energy.output(params, x, energy.rest(params, x))


def logits(gain: float, output: Array) -> Array:
    """`[B, 10]`, the differences of pairs of output voltages, times `gain`."""
    return gain * (output[:, :NUM_CLASSES] - output[:, NUM_CLASSES:])


def loss(gain: float, output: Array, labels: Array) -> Array:
    """Cross-entropy of each example, `[B]`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(gain, output), labels)
