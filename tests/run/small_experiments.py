"""Experiments written for tests, each the text of one file; a test writes it to `experiments/NAME.py`."""

# Descent to a vector of ones that stops being finite where `plant` says.
PLANTED = '''"""Descent in which something becomes NaN or infinite."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from toolkit import run


class Config(run.Settings):
    plant: str = "a metric"


class State(NamedTuple):
    w: jax.Array
    half: jax.Array
    unset: jax.Array
    count: jax.Array


def build(config):
    starts_bad = config.plant.startswith("a start")

    def init(key):
        half = [jnp.inf, -jnp.inf] if starts_bad else [0, 0]
        unset = jnp.float32(jnp.nan if starts_bad else 0)
        return State(jax.random.normal(key, (4,)), jnp.array(half, jnp.bfloat16), unset, 0)

    def step(state):
        w, half, unset, count = state
        gradient = 2 * (w - 1)
        half = half + 1
        if config.plant == "the state between two rows":
            gradient = jnp.sqrt(5.5 - count) * gradient
        if config.plant == "a state that no metric shows":
            half = half + jnp.log(7.5 - count).astype(jnp.bfloat16)
        if config.plant == "an overflow":
            half = half * 1e9
        if config.plant == "a loss that overflows first":
            w = w * 1e60
        if config.plant == "a start that becomes NaN":
            half = half - half
        w = w - 0.1 * gradient
        loss = jnp.sum((w - 1) ** 2)
        if config.plant == "a metric":
            loss = jnp.where(count + 1 == 12, jnp.nan, loss)
        if config.plant == "a metric that only some steps measure":
            loss = jnp.where((count + 1) % config.log_every == 0, loss, jnp.nan)
        metrics = {"loss": loss, "norm": jnp.linalg.norm(w)}
        if config.diagnostics.gradients_every:
            metrics["w"] = run.Gradients(gradient)
        return State(w, half, unset, count + 1), metrics

    def finish(state):
        return run.Final({"w": state.w}, {"error": jnp.sum((state.w - 1) ** 2)})

    return run.Program(init, step, finish)
'''

# Descent whose rate falls with the fraction used of its steps or its time.
FADING = '''"""Descent at a rate that falls with the fraction used."""

import jax
import jax.numpy as jnp

from toolkit import run


class Config(run.Settings):
    rate: float = 0.05
    root: float = 2.0  # beyond this fraction the step is NaN


def build(config):
    decay = run.by_fraction(lambda step: config.rate * (1 - step / 10), 10)

    def init(key):
        return jax.random.normal(key, (8,))

    def step(w, fraction):
        w = w - decay(fraction) * 2 * (w - 1)
        w = w + 0 * jnp.sqrt(config.root - fraction)
        return w, {"loss": jnp.sum((w - 1) ** 2)}

    def finish(w):
        return run.Final({"w": w}, {"loss": jnp.sum((w - 1) ** 2)})

    return run.Program(init, step, finish, takes_fraction=True)
'''

# Seeds that differ in their data, in their program, or not at all.
SEEDED = '''"""Noisy descent to a target that may be of each seed\'s own."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from toolkit import run


class Config(run.Settings):
    width: int = 4
    differ: str = "by key"


class State(NamedTuple):
    key: jax.Array
    w: jax.Array


def build(config):
    target = jnp.ones(config.width)
    if config.differ != "by key":
        target = jax.random.normal(jax.random.key(config.seed + 100), (config.width,))
    wave = jnp.sin if config.seed else jnp.cos

    def init(key):
        key, start = jax.random.split(key)
        w = jax.random.normal(start, (config.width,))
        if config.differ == "by a number in init":
            w = w * (1.5 + config.seed)
        return State(key, w)

    def step(state):
        key, noise = jax.random.split(state.key)
        w = state.w - 0.1 * (2 * (state.w - target) + 0.1 * jax.random.normal(noise, state.w.shape))
        if config.differ == "by a function in step":
            w = wave(w)
        if config.differ == "by a number in step":
            w = config.seed + w
        return State(key, w), {"loss": jnp.sum((w - 1) ** 2), "norm": jnp.linalg.norm(w)}

    def finish(state):
        return run.Final({"w": state.w, "key": state.key}, {"error": jnp.sum((state.w - 1) ** 2)})

    return run.Program(init, step, finish)
'''

# What an experiment says that it learns from.
ON_DATA = '''"""Descent to the mean of some points."""

import pathlib

import jax.numpy as jnp

from toolkit import run


class Config(run.Settings):
    label: str = "plain"
    nan_at: int = -1


def build(config):
    points = jnp.asarray([float(line) for line in pathlib.Path("points.txt").read_text().split()])

    def step(state):
        w, count = state
        w = w - 0.1 * (w - points.mean())
        loss = jnp.where(count + 1 == config.nan_at, jnp.nan, (w - points.mean()) ** 2)
        return (w, count + 1), {"loss": loss}

    def finish(state):
        return run.Final({"w": state[0]}, {"w": state[0]})

    return run.Program(lambda key: (jnp.zeros(()), 0), step, finish, data={"points": {"x": points}})
'''


RUNNER = "steps: 20\nlog_every: 2\ncheckpoint_every: 5\n"


def lay_out(folder, name, text, fields=RUNNER):
    """experiments/NAME.py and NAME.yaml in `folder`."""
    (folder / f"experiments/{name}.py").write_text(text)
    (folder / f"{name}.yaml").write_text(f"experiment: {name}\n{fields}")


# Least squares on 64 rows, with a part of the state that it splits over the devices itself where `split` says.
SPREAD = '''"""Least squares on rows that several devices share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import toolkit as tk
from toolkit import run


class Config(run.Settings):
    work: int = 0  # turns of a loop that makes a step slow
    split: bool = False
    nan_at: int = -1


class State(NamedTuple):
    theta: jax.Array
    averages: jax.Array
    key: jax.Array
    count: jax.Array


def build(config):
    rng = np.random.default_rng(config.seed)
    x = rng.normal(size=(64, 3)).astype(np.float32)
    data = {"x": x, "z": x @ np.arange(3, dtype=np.float32), "scale": np.float32(1)}

    def laid_out(averages):
        if not config.split:
            return averages
        lying = NamedSharding(tk.devices.mesh(), PartitionSpec("data"))
        return jax.lax.with_sharding_constraint(averages, lying)

    def init(key):
        return State(jnp.zeros(3), laid_out(jnp.zeros((8, 3), jnp.bfloat16)), key, jnp.int32(0))

    def step(state, data):
        theta, averages, key, count = state
        key, own = jax.random.split(key)
        loss = lambda theta: jnp.mean((data["x"] @ theta - data["z"]) ** 2) * data["scale"]
        value, gradient = jax.value_and_grad(loss)(theta)
        busy = lambda _, held: jnp.tanh(held @ held)
        spent = jax.lax.fori_loop(0, config.work, busy, jnp.eye(64) * value)
        noise = 1e-3 * jax.random.normal(own, theta.shape) + 1e-30 * spent[0, 0]
        theta = theta - 0.05 * gradient + noise
        theta = jnp.where(count == config.nan_at, jnp.nan, theta)
        averages = laid_out(0.9 * averages + theta.astype(jnp.bfloat16))
        return State(theta, averages, key, count + 1), {"loss": value}

    def finish(state, data):
        # As it would be written for one device: NumPy, and plotting tools, want whole arrays.
        residual = np.asarray(data["x"]) @ np.asarray(state.theta) - np.asarray(data["z"])
        mean = jnp.mean((data["x"] @ state.theta - data["z"]) ** 2)
        metrics = {"mse": float(np.mean(residual**2)), "again": float(mean)}
        return run.Final({"theta": state.theta, "averages": state.averages}, metrics)

    return run.Program(init, step, finish, data=data)
'''
