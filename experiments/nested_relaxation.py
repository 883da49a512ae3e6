"""Does plain Python cost anything? Four loops inside one another, and their hand-written lax twin.

    toolkit run configs/nested_relaxation.yaml                  about 50 s on 2 cores
    toolkit run configs/nested_relaxation.yaml layers=2         a shallower network

A layered Hopfield network relaxes on each digit into a minimum of its energy. Its `L` hidden layers are
as wide as the image, so that their weights are one array; `s_0` is the image, `gain o` the logits:

    E(s, o) = sum_k  G(s_k) - <s_(k-1) W_k + b_k, s_k>  +  |o|^2 / 2 - <s_L V + c, o>,   G' = artanh

Given its neighbours, a layer is at its minimum where `s_k = tanh(s_(k-1) W_k + b_k + s_(k+1) W_(k+1)')`.
So the network relaxes layer by layer: *for* each batch, *while* a state still changes, *for* each layer,
from its neighbours' newest states; *if* it is the last, its neighbour above is the output. Two more
relaxations, the output pulled a little down the loss and a little up, give each layer's gradient from the
activities at its own two ends (equilibrium propagation).

`epoch` and `relax` say so in Python's words under `@tk.control_flow`; `lax_epoch` and `lax_relax` are the
same, written for XLA by hand. After training both start anew, an epoch in turn, and are timed. Expect (5
seeds) the same parameters to the bit, a ratio of times from 0.98 to 1.03, and held-out accuracy 0.94 to
0.98. Towards the end some relaxations reach `max_sweeps` (`longest` in the rows), so their gradient is
off: the figures show what the loops cost, not how well such a network can be trained.

Source: Hopfield 1984; Scellier & Bengio 2017; Laborieux et al. 2021 (centered); Scellier et al. 2023.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

import toolkit as tk
from toolkit import run
from toolkit.data import Labelled

NUM_CLASSES = 10
ATTEMPTS = 6  # at each timed epoch, of which the best counts


class Config(run.Settings):
    """What this experiment can be asked; a step is an epoch."""

    train_size: Annotated[int, Field(ge=10)] = 1400
    batch_size: PositiveInt = 100
    layers: PositiveInt = 3
    scale: PositiveFloat = 0.35
    gain: PositiveFloat = 16.0
    beta: PositiveFloat = 0.05
    tol: PositiveFloat = 1e-4  # a sweep that changes no state by more is the last one
    max_sweeps: PositiveInt = 200
    optimizer: tk.optimizers.Optimizer = tk.optimizers.AdamW(learning_rate=1e-3, weight_decay=3.0)
    timed_epochs: PositiveInt = 10

    @model_validator(mode="after")
    def _an_epoch_has_a_batch(self) -> Self:
        if self.batch_size > self.train_size:
            raise ValueError(
                f"batch_size must be at most train_size {self.train_size}: got {self.batch_size}"
            )
        return self


class Theta(NamedTuple):
    """`L` hidden layers of `N` units."""

    weights: jax.Array  # [L, N, N], into each layer
    biases: jax.Array  # [L, N]
    readout: jax.Array  # [N, 10]
    offset: jax.Array  # [10]


class States(NamedTuple):
    """Of a batch of `B`."""

    hidden: jax.Array  # [L, B, N]
    output: jax.Array  # [B, 10]


class State(NamedTuple):
    """All that is carried from one batch to the next."""

    theta: Theta
    optimizer: Any
    batches: jax.Array


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""

    def init(key: jax.Array) -> State:
        _, hidden_key, readout_key = jax.random.split(key, 3)
        layers, units = config.layers, training.images.shape[1]
        spread = config.scale / units**0.5
        weights = spread * jax.random.normal(hidden_key, (layers, units, units))
        readout = spread * jax.random.normal(readout_key, (units, NUM_CLASSES))
        theta = Theta(weights, jnp.zeros((layers, units)), readout, jnp.zeros(NUM_CLASSES))
        return State(theta, config.optimizer.build().init(theta), jnp.asarray(0))

    def step(state: State, data: dict[str, Labelled]) -> tuple[State, dict[str, jax.Array]]:
        state, costs, sweeps = epoch(config, data["training"], state)
        return state, {
            "cost": jnp.mean(costs),
            "accuracy": accuracy(config, state.theta, data["held_out"]),
            "sweeps": jnp.mean(sweeps),
            "longest": jnp.max(sweeps),
        }

    def finish(state: State, data: dict[str, Labelled]) -> run.Final:
        metrics, seconds = race(config, data["training"], init(jax.random.key(config.seed)))
        metrics["accuracy"] = float(accuracy(config, state.theta, data["held_out"]))
        table = tuple((name.replace("_", " "), f"{value:.4g}") for name, value in metrics.items())
        return run.Final({**state.theta._asdict(), **seconds}, metrics, table)

    def differentiated(state: State, data: dict[str, Labelled]) -> dict[str, run.Loss]:
        images, labels = (leaf[: config.batch_size] for leaf in data["training"])
        states = rest(config, images)
        cost = run.Loss(lambda output: cost_of(output, config.gain, labels), (states.output,))
        return {"coupling": run.Loss(coupling, (state.theta, images, states)), "cost": cost}

    training, held_out = load(config)
    data = {"training": training, "held_out": held_out}
    return run.Program(init, step, finish, differentiated, data=data)


@tk.control_flow
def relax(config: Config, theta: Theta, images: Any, pull: Any, states: States) -> Any:
    """(the states that minimise `E + <pull, o>`, sweeps made); pull: `[B, 10]`."""
    hidden, output = states
    change, sweeps = jnp.inf, 0
    while change > config.tol and sweeps < config.max_sweeps:
        change = 0.0
        for k in range(config.layers):
            below = images if k == 0 else hidden[k - 1]
            if k == config.layers - 1:
                above = output @ theta.readout.T
            else:
                above = hidden[k + 1] @ theta.weights[k + 1].T
            new = jnp.tanh(below @ theta.weights[k] + theta.biases[k] + above)
            change = jnp.maximum(change, jnp.max(jnp.abs(new - hidden[k])))
            hidden[k] = new
        new = hidden[-1] @ theta.readout + theta.offset - pull
        change = jnp.maximum(change, jnp.max(jnp.abs(new - output)))
        output = new
        sweeps += 1
    return States(hidden, output), sweeps


def lax_relax(config: Config, theta: Theta, images: Any, pull: Any, states: States) -> Any:
    """`relax`, by hand."""

    def sweep(carry: Any) -> Any:
        hidden, output, _, sweeps = carry

        def update(k: jax.Array, carry: Any) -> Any:
            hidden, change = carry
            below = lax.cond(k == 0, lambda: images, lambda: hidden[k - 1])
            above = lax.cond(
                k == config.layers - 1,
                lambda: output @ theta.readout.T,
                lambda: hidden[k + 1] @ theta.weights[k + 1].T,
            )
            new = jnp.tanh(below @ theta.weights[k] + theta.biases[k] + above)
            change = jnp.maximum(change, jnp.max(jnp.abs(new - hidden[k])))
            return hidden.at[k].set(new), change

        hidden, change = lax.fori_loop(0, config.layers, update, (hidden, 0.0))
        new = hidden[-1] @ theta.readout + theta.offset - pull
        change = jnp.maximum(change, jnp.max(jnp.abs(new - output)))
        return hidden, new, change, sweeps + 1

    def changes(carry: Any) -> jax.Array:
        _, _, change, sweeps = carry
        return (change > config.tol) & (sweeps < config.max_sweeps)

    hidden, output, _, sweeps = lax.while_loop(changes, sweep, (*states, jnp.inf, 0))
    return States(hidden, output), sweeps


@tk.control_flow
def epoch(config: Config, data: Labelled, state: State) -> Any:
    """(the state after every batch, costs `[batches]`, sweeps `[batches, 3]`)."""
    costs, sweeps = [], []
    for picked in batches_of(config, state):
        state, cost, made = learn(config, relax, state, data.images[picked], data.labels[picked])
        costs.append(cost)
        sweeps.append(made)
    return state, jnp.stack(costs), jnp.stack(sweeps)


def lax_epoch(config: Config, data: Labelled, state: State) -> Any:
    """`epoch`, by hand."""

    def one(state: State, picked: jax.Array) -> Any:
        images, labels = data.images[picked], data.labels[picked]
        state, cost, made = learn(config, lax_relax, state, images, labels)
        return state, (cost, made)

    state, (costs, sweeps) = lax.scan(one, state, batches_of(config, state))
    return state, costs, sweeps


WRITTEN = {"plain": epoch, "lax": lax_epoch}


def learn(config: Config, relax: Any, state: State, images: Any, labels: Any) -> Any:
    """(the state after one batch, its mean cost, sweeps `[3]`)."""
    settle = partial(relax, config, state.theta, images)
    free, made = settle(0.0, rest(config, images))
    cost, pull = jax.value_and_grad(cost_of)(free.output, config.gain, labels)
    down, made_down = settle(config.beta * pull, free)
    up, made_up = settle(-config.beta * pull, free)
    gradient = contrast(config, state.theta, images, down, up)
    optimizer = config.optimizer.build()
    updates, moments = optimizer.update(gradient, state.optimizer, state.theta)
    state = State(optax.apply_updates(state.theta, updates), moments, state.batches + 1)
    return state, cost / len(images), jnp.stack([made, made_down, made_up])


def contrast(config: Config, theta: Theta, images: jax.Array, down: Any, up: Any) -> Theta:
    """The gradient of the mean cost, from the states under the two nudges."""
    # The gradient of the cost at rest is the slope in beta of dE/dtheta at the state that settles under a
    # pull of strength beta. The slope is taken by a centered difference, from beta and -beta.
    local = jax.grad(lambda t: coupling(t, images, down) - coupling(t, images, up))
    return jax.tree.map(lambda leaf: leaf / (2 * config.beta * len(images)), local(theta))


def coupling(theta: Theta, images: jax.Array, states: States) -> jax.Array:
    """What the parameters contribute to the energy, summed over the batch."""
    hidden, output = states
    below = jnp.concatenate([images[None], hidden[:-1]])
    sent = jnp.einsum("lbi,lij->lbj", below, theta.weights) + theta.biases[:, None]
    return -jnp.sum(sent * hidden) - jnp.sum((hidden[-1] @ theta.readout + theta.offset) * output)


def cost_of(output: jax.Array, gain: float, labels: jax.Array) -> jax.Array:
    """Cross-entropy of the logits, summed over the batch."""
    return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(gain * output, labels))


def rest(config: Config, images: jax.Array) -> States:
    """States 0, from which a network relaxes."""
    hidden = jnp.zeros((config.layers, *images.shape))
    return States(hidden, jnp.zeros((len(images), NUM_CLASSES)))


def accuracy(config: Config, theta: Theta, data: Labelled) -> jax.Array:
    """The part of the digits whose largest output is the right one."""
    free, _ = relax(config, theta, data.images, 0.0, rest(config, data.images))
    return jnp.mean(jnp.argmax(free.output, axis=1) == data.labels)


def batches_of(config: Config, state: State) -> jax.Array:
    """`[batches, B]` examples of the epoch that begins."""
    _, _, order_key = jax.random.split(jax.random.key(config.seed), 3)
    key = jax.random.fold_in(order_key, state.batches)
    count = config.train_size // config.batch_size
    order = jax.random.permutation(key, config.train_size)[: count * config.batch_size]
    return order.reshape(count, config.batch_size)


def load(config: Config) -> tuple[Labelled, ...]:
    """(training, held-out) digits."""
    split_key, _, _ = jax.random.split(jax.random.key(config.seed), 3)
    return tk.data.standardize(*tk.data.split(split_key, tk.data.digits(), config.train_size))


def race(config: Config, training: Labelled, start: State) -> tuple[dict[str, float], Any]:
    """(how the two ways of writing compare, seconds of each epoch of both)."""
    metrics, compiled, states = {}, {}, dict.fromkeys(WRITTEN, start)
    for name, written in [*WRITTEN.items()] * 2:  # twice: the first trace pays for what both share
        began = time.perf_counter()
        compiled[name] = jax.jit(partial(written, config)).lower(training, start).compile()
        metrics[f"seconds_to_compile_{name}"] = time.perf_counter() - began
    seconds = np.full((config.timed_epochs, len(WRITTEN)), np.inf)
    for number in range(config.timed_epochs):
        after = {}
        for attempt in range(ATTEMPTS):
            # Each goes first as often as last, so that a slower moment of the machine hits both.
            for column, name in list(enumerate(WRITTEN))[:: 1 if attempt % 2 else -1]:
                began = time.perf_counter()
                after[name], *_ = jax.block_until_ready(compiled[name](training, states[name]))
                seconds[number, column] = min(seconds[number, column], time.perf_counter() - began)
        states = after
    pairs = zip(*(state.theta for state in states.values()), strict=True)
    metrics["differing_parameters"] = sum(int(jnp.sum(a != b)) for a, b in pairs)
    low, middle, high = np.quantile(seconds[:, 0] / seconds[:, 1], (0.25, 0.5, 0.75))
    metrics |= {"time_ratio": middle, "time_ratio_quartile_1": low, "time_ratio_quartile_3": high}
    by_name = {f"seconds_{name}": column for name, column in zip(WRITTEN, seconds.T, strict=True)}
    metrics |= {f"{name}_an_epoch": np.median(column) for name, column in by_name.items()}
    return {name: float(value) for name, value in metrics.items()}, by_name
