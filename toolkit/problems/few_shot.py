"""Few-shot tasks: adapt to the support examples, be judged on the query examples.

`B` examples, `F` features, `C` classes, `M` examples of each. Tasks are drawn by a key, one each: to
draw many, `jax.vmap` over keys.

Two families. Sine waves, to be continued from a few points of each; the best that a predictor which
does not adapt can do is known in closed form (`unadapted_wave`, `unadapted_wave_mse`). And
handwritten digits, each turned by a random number of quarters, to be told apart from a few images of
each; `nearest_mean` is how well comparing with their means does, without any learning.

Source: Finn, Abbeel & Levine 2017, section 5.1 (waves), section 5.2 after Vinyals et al. 2016
(classes); quarter turns: Santoro et al. 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit.data import Labelled

AMPLITUDES = (0.1, 5.0)
PHASES = (0.0, np.pi)
INPUTS = (-5.0, 5.0)
SIDE = 8  # pixels of a digit's side
TURNS = 4


class Examples(NamedTuple):
    """What goes in and what should come out."""

    inputs: Array  # [B, F] float32
    targets: Array  # [B, 1] float32 (waves), [B] int32 (classes)


class Task(NamedTuple):
    """Disjoint examples of one task."""

    support: Examples  # to adapt to
    query: Examples  # to be judged on


class Wave(NamedTuple):
    """`x -> amplitude sin(x - phase)`."""

    amplitude: Array  # [] in [0.1, 5]
    phase: Array  # [] in [0, pi]

    def __call__(self, x: Array) -> Array:
        return self.amplitude * jnp.sin(x - self.phase)


def pooled(task: Task) -> Examples:
    """Support and query as one."""
    return Examples(*map(jnp.concatenate, zip(*task, strict=True)))


def random_wave(key: Array) -> Wave:
    """Amplitude uniform in [0.1, 5], phase uniform in [0, pi]."""
    amplitude_key, phase_key = jax.random.split(key)
    amplitude = jax.random.uniform(amplitude_key, (), minval=AMPLITUDES[0], maxval=AMPLITUDES[1])
    return Wave(amplitude, jax.random.uniform(phase_key, (), minval=PHASES[0], maxval=PHASES[1]))


def wave_task(key: Array, wave: Wave, shots: int, queries: int) -> Task:
    """Points of a wave, without noise, at inputs uniform in [-5, 5]."""
    x = jax.random.uniform(key, (shots + queries, 1), minval=INPUTS[0], maxval=INPUTS[1])
    return Task(*(Examples(part, wave(part)) for part in (x[:shots], x[shots:])))


def unadapted_wave(x: Array) -> Array:
    """The best prediction for an unknown wave, its mean: `E[a sin(x - p)] = -2 E[a] / pi cos x`."""
    return -2 * np.mean(AMPLITUDES) / np.pi * jnp.cos(x)


def unadapted_wave_mse() -> float:
    """Mean squared error of `unadapted_wave`, 3.006: no predictor that does not adapt has less.

    `E[a^2] E[sin^2(x - p)] - E[unadapted_wave(x)^2]`; over `p` a half wave, the mean of sin^2 is 1/2, and
    over `x` in [-c, c] that of cos^2 is `1/2 + sin(2 c) / (4 c)`.
    """
    low, high = AMPLITUDES
    second_moment = (low**2 + low * high + high**2) / 3
    factor = (2 * (low + high) / 2 / np.pi) ** 2
    return float(second_moment / 2 - factor * (1 / 2 + np.sin(2 * INPUTS[1]) / (4 * INPUTS[1])))


def by_class(data: Labelled, classes: Sequence[int]) -> Array:
    """`[C, M, F]` images of the given classes; M is what the smallest of them has, the first of each.

    Raises:
      ValueError: no class is given, one twice, or one that the data does not have.
    """
    labels = np.asarray(data.labels)
    present = {int(label) for label in np.unique(labels)}
    if not classes or len(set(classes)) < len(classes) or not set(classes) <= present:
        raise ValueError(
            f"`classes` must be different labels of the data: got {tuple(classes)}, expected some of "
            f"{tuple(sorted(present))}."
        )
    size = min(int(np.sum(labels == label)) for label in classes)
    return jnp.stack([data.images[labels == label][:size] for label in classes])


def turned(images: Array, quarters: Array) -> Array:
    """`[..., 64]` images of 8x8 pixels, all turned by the same number of quarters, counterclockwise."""
    pictures = images.reshape(*images.shape[:-1], SIDE, SIDE)
    # `quarters` is traced, so the four turns are branches of one program.
    turns = [lambda p, k=k: jnp.rot90(p, k, axes=(-2, -1)) for k in range(4)]
    return jax.lax.switch(quarters % TURNS, turns, pictures).reshape(images.shape)


def class_task(key: Array, images: Array, ways: int, shots: int, queries: int) -> Task:
    """Tell `ways` kinds apart: `shots` support and `queries` query images of each.

    A kind is a class turned by a number of quarters, so there are 4 C of them.

    Args:
      key: chooses the kinds, the numbers that they bear in this task, and their examples.
      images: `[C, M, 64]`, see `by_class`.
      ways: kinds of the task, at most 4 C.
      shots: support examples of each kind.
      queries: query examples of each kind; `shots + queries` at most M.

    Raises:
      ValueError: too many are asked for.
    """
    classes, size = images.shape[:2]
    kinds = TURNS * classes
    if not 2 <= ways <= kinds:
        raise ValueError(
            f"`ways` must be from 2 to the {kinds} kinds that {classes} classes make: got {ways}."
        )
    if min(shots, queries) < 1 or shots + queries > size:
        raise ValueError(
            "`shots` and `queries` must be positive, and together at most the examples of a class: "
            f"got {shots} and {queries}, expected a sum up to {size}."
        )
    kind_key, example_key = jax.random.split(key)

    def draw(key: Array, kind: Array) -> Array:
        picked = jax.random.permutation(key, size)[: shots + queries]
        return turned(images[kind // TURNS, picked], kind % TURNS)

    chosen = jax.random.permutation(kind_key, kinds)[:ways]
    drawn = jax.vmap(draw)(jax.random.split(example_key, ways), chosen)
    return Task(*(_numbered(part) for part in (drawn[:, :shots], drawn[:, shots:])))


def _numbered(images: Array) -> Examples:
    """`[N, B, F]` images of N classes as examples of the targets 0 to N - 1."""
    ways, each, features = images.shape
    targets = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), each)
    return Examples(images.reshape(ways * each, features), targets)


def nearest_mean(task: Task, ways: int) -> Array:
    """`[B]` the class of each query whose mean support image is nearest: no learning at all."""
    member = jax.nn.one_hot(task.support.targets, ways, axis=0)
    means = member @ task.support.inputs / jnp.sum(member, axis=1, keepdims=True)
    gaps = task.query.inputs[:, None] - means
    return jnp.argmin(jnp.sum(gaps**2, axis=-1), axis=1)
