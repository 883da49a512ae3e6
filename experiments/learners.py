"""Networks that learn images by rules, side by side: what the experiments on learning rules share.

All draws of a network are treated at once: leaves of a learner have an axis of draws in front. A step of
the run is an epoch of every network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import BaseModel, Field, PositiveInt

import toolkit as tk
from toolkit import run
from toolkit.data import Labelled
from toolkit.run.experiment.common import STRICT

NUM_CLASSES = 10
HELD_OUT = 2000  # images of a larger set: all draws see them at once, after every epoch
Batch = tuple[jax.Array, jax.Array]  # images [B, ...], one-hot labels [B, 10]


def sigmoid(u: jax.Array) -> jax.Array:
    """Rates in (0, 1) with slope 1 at 1/2; in this form analytic, for complex nudges."""
    return (1 + jnp.tanh(2 * u - 1)) / 2


def half_squares(output: jax.Array, target: jax.Array) -> jax.Array:
    """Half the squared error of each example, `[B]`."""
    return jnp.sum((output - target) ** 2, axis=1) / 2


ACTIVATIONS = {"tanh": jnp.tanh, "sigmoid": sigmoid, "relu": jax.nn.relu}
LOSSES = {"cross_entropy": optax.softmax_cross_entropy, "half_squares": half_squares}


class Training(run.Settings):
    """How the networks of these experiments are trained."""

    log_every: PositiveInt = 1
    checkpoint_every: PositiveInt = 5
    train_size: Annotated[int, Field(ge=10)] = 1400
    batch_size: PositiveInt = 50
    draws: Annotated[int, Field(ge=2)] = 5  # random starts of each network, side by side


class Contender(BaseModel):
    """A rule, and the optimizer that moves the network along its gradient."""

    model_config = STRICT
    rule: tk.credit.Rule
    optimizer: tk.optimizers.Optimizer = tk.optimizers.Adam(learning_rate=1e-3)


class Data(NamedTuple):
    """Images and their labels, in two parts."""

    training: Batch
    held_out: Labelled


class Network(NamedTuple):
    """What rules train; those that share a network start from the same weights."""

    model: Any
    loss: Callable  # (output, target) -> [B]
    data: str  # the name of the data that it learns from


class Trainer(NamedTuple):
    """A rule and the network that it trains."""

    network: Network
    rule: Any
    init: Callable  # (key, params, batch) -> TrainState
    step: Callable  # (state, batch, key) -> (state, info)
    predict: Callable  # (params, x) -> output
    alignment: Callable  # (params, rule_state, batch, key) -> Alignment


class State(NamedTuple):
    """All that is carried from one epoch to the next."""

    learners: dict[str, Any]  # a `tk.credit.TrainState` a network; leaves have an axis of draws
    epoch: jax.Array


class Measured(NamedTuple):
    """A network at the end of its training."""

    accuracy: np.ndarray  # [draws], on held-out images
    cosines: np.ndarray  # [hidden layers], with the true gradient, mean over draws


def digits(config: Training, shape: tuple[int, ...] = (64,), standardized: bool = True) -> Data:
    """The handwritten digits, each in `shape`; pixels in [0, 1], or standardized by the training part."""
    key, _ = jax.random.split(jax.random.key(config.seed))
    parts = tk.data.split(key, tk.data.digits(), config.train_size)
    if standardized:
        parts = tk.data.standardize(*parts)
    training, held_out = (part._replace(images=part.images.reshape(-1, *shape)) for part in parts)
    return Data((training.images, jax.nn.one_hot(training.labels, NUM_CLASSES)), held_out)


def images(config: Training, load: Callable[[str], Labelled]) -> Data:
    """Images of a loader of `tk.data`, drawn from its parts `train` and `test`, standardized."""
    key, _ = jax.random.split(jax.random.key(config.seed))

    def drawn(part: str, size: int) -> Labelled:
        whole = load(part)
        rows = np.asarray(jax.random.permutation(key, len(whole.labels)))[:size]
        scaled = jnp.asarray(whole.images[rows], jnp.float32) / 255
        return Labelled(scaled, jnp.asarray(whole.labels[rows]))

    parts = drawn("train", config.train_size), drawn("test", HELD_OUT)
    training, held_out = tk.data.standardize(*parts)
    return Data((training.images, jax.nn.one_hot(training.labels, NUM_CLASSES)), held_out)


def network(layers: list[Any], loss: Callable, data: str) -> Network:
    """A network of layers, and the name of its data."""
    return Network(tk.credit.layered(layers), loss, data)


def trainer(network: Network, contender: Contender) -> Trainer:
    """A network, to be trained by a rule."""
    model, loss, rule = network.model, network.loss, contender.rule
    init, step = tk.credit.train(model, loss, rule, contender.optimizer)
    measure = tk.credit.alignment(model, loss, rule)
    return Trainer(network, rule, init, step, rule.predict(model), measure)


def first(data: Data, count: int) -> Batch:
    """The first training images."""
    images, targets = data.training
    return images[:count], targets[:count]


def program(
    config: Training,
    trainers: Mapping[str, Trainer],
    data: Mapping[str, Data],
    finish: Callable[[State, Any], run.Final],
) -> run.Program:
    """Trains every network; each epoch logs its loss, held-out accuracy, and alignment before the epoch."""

    def init(key: jax.Array, data: Mapping[str, Data]) -> State:
        keys = jax.random.split(key, (2, config.draws))
        # Drawn once for all rules of a network: a rule is then compared at equal starts, and compiling one
        # draw for each rule would take longer than training.
        networks = {id(one.network): one.network for one in trainers.values()}
        example = {name: first(own, 1) for name, own in data.items()}
        drawn = {name: start(one, keys[0], example[one.data]) for name, one in networks.items()}
        started = {
            name: jax.vmap(one.init, (0, 0, None))(
                keys[1], drawn[id(one.network)], example[one.network.data]
            )
            for name, one in trainers.items()
        }
        return State(started, jnp.asarray(0))

    def step(state: State, data: Mapping[str, Data]) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.epoch)
        keys = jax.random.split(key, config.draws)
        after, metrics = {}, {}
        for name, one in trainers.items():
            before, own = state.learners[name], data[one.network.data]
            found = jnp.mean(cosines(config, one, before, own, keys), axis=0)
            after[name], losses = epoch(config, one, before, own, keys)
            metrics[f"loss/{name}"] = jnp.mean(losses)
            metrics[f"accuracy/{name}"] = jnp.mean(accuracies(one, after[name], own))
            metrics |= {f"cosine_first/{name}": found[0], f"cosine_last/{name}": found[-1]}
        return State(after, state.epoch + 1), metrics

    def differentiated(state: State, data: Mapping[str, Data]) -> dict[str, run.Loss]:
        def loss(name: str) -> run.Loss:
            one = trainers[name]
            batch = first(data[one.network.data], config.batch_size)
            params = tuple(state.learners[name].params)
            # Goodness is that of the hidden layers: such a prediction does not read the last one.
            read = len(params) - (getattr(one.rule, "inference", "") == "goodness")
            lost = lambda own: mean_loss(one, own + params[read:], batch)
            return run.Loss(lost, (params[:read],))

        return {name: loss(name) for name in trainers}

    return run.Program(init, step, finish, differentiated, data=data)


def start(network: Network, keys: jax.Array, example: Batch) -> Any:
    """The first weights of each draw."""
    images, _ = example
    return jax.vmap(lambda key: network.model.init(key, images))(keys)


def epoch(config: Training, one: Trainer, learner: Any, data: Data, keys: jax.Array) -> Any:
    """(the learner after a pass over the training images, losses `[draws, batches]`)."""
    size = config.batch_size
    passing = lambda own, key: tk.credit.epoch(one.step, own, data.training, size, key)
    learner, info = jax.vmap(passing)(learner, keys)
    return learner, info.loss


def cosines(config: Training, one: Trainer, learner: Any, data: Data, keys: jax.Array) -> jax.Array:
    """Cosines of the hidden layers with the true gradient, `[draws, hidden layers]`."""
    batch = first(data, config.batch_size)  # at every epoch the same
    measure = lambda own, key: one.alignment(own.params, own.rule, batch, key)
    found = jax.vmap(measure)(learner, keys)
    # A rule that has no signal yet, as a synthesiser before it learned anything, has no direction: 0, not NaN.
    return jnp.where(found.norm_ratio == 0, 0, found.cosine)[:, :-1]


def accuracies(one: Trainer, learner: Any, data: Data) -> jax.Array:
    """The part of the held-out images whose largest output is the right one, `[draws]`."""
    images, labels = data.held_out
    choose = lambda params: jnp.argmax(one.predict(params, images), axis=1)
    return jnp.mean(jax.vmap(choose)(learner.params) == labels, axis=1)


def mean_loss(one: Trainer, params: Any, batch: Batch) -> jax.Array:
    """The loss of all draws at the rule's own prediction."""
    x, target = batch
    return jnp.mean(jax.vmap(lambda own: one.network.loss(one.predict(own, x), target))(params))


def measured(
    config: Training, trainers: Mapping[str, Trainer], state: State, data: Mapping[str, Data]
) -> dict[str, Measured]:
    """Every network at the end of its training."""
    keys = jax.random.split(jax.random.key(config.seed), config.draws)

    def of(one: Trainer, learner: Any) -> Measured:
        @jax.jit
        def found(learner: Any, own: Data) -> tuple[jax.Array, jax.Array]:
            return accuracies(one, learner, own), cosines(config, one, learner, own, keys)

        accuracy, aligned = jax.device_get(found(learner, data[one.network.data]))
        return Measured(accuracy, aligned.mean(axis=0))

    return {name: of(one, state.learners[name]) for name, one in trainers.items()}


def metrics_of(rows: Mapping[str, Measured]) -> dict[str, float]:
    """The numbers of `measured` by name, as in the metrics of a step."""
    found: dict[str, float] = {}
    for name, row in rows.items():
        found[f"accuracy/{name}"] = float(row.accuracy.mean())
        found[f"cosine_first/{name}"] = float(row.cosines[0])
        found[f"cosine_last/{name}"] = float(row.cosines[-1])
    return found


def said(row: Measured) -> str:
    """A line of the table."""
    percent = f"{100 * row.accuracy.mean():.1f} ± {100 * row.accuracy.std():.1f} %"
    return f"{percent}; cosine {' '.join(f'{cosine:.2f}' for cosine in row.cosines)}"


def conclude(
    config: Training, trainers: Mapping[str, Trainer], state: State, data: Mapping[str, Data]
) -> run.Final:
    """Accuracy and alignment of every network at the end."""
    rows = measured(config, trainers, state, data)
    accuracy = {name: row.accuracy for name, row in rows.items()}
    table = tuple((name, said(row)) for name, row in rows.items())
    return run.Final({"accuracy": accuracy}, metrics_of(rows), table)


def accuracy_bars(names: list[str], params: dict[str, Any]) -> run.Figure:
    """Held-out accuracy at the end, of what `conclude` leaves in `params`."""
    accuracy = {name: 100 * params["accuracy"][name] for name in names}
    return run.pictures.bars(
        "Held-out accuracy at the end",
        "Mean over draws; the line reaches from the worst to the best of them.",
        {name: values.mean() for name, values in accuracy.items()},
        intervals={name: (values.min(), values.max()) for name, values in accuracy.items()},
        label="accuracy, %",
        xlim=(min(80.0, min(values.min() for values in accuracy.values()) - 1), 100.0),
    )
