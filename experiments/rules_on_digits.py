"""Which learning rules learn, how true is their direction, and what does a gradient cost?

    toolkit run configs/rules_on_digits.yaml

Every rule of `tk.credit` trains its own network on handwritten digits, all draws in one program; a step of
the run is an epoch of every rule. Before each epoch the rule's gradient of one batch is held against the
derivative of the loss at the rule's own prediction. The cosine of each hidden layer is its alignment.

Exact rules end where backprop does: digits cannot rank them. Alignment rules begin at a cosine of 0 and
find their way, for the network learns weights for which the fixed feedback is right. At the end
`credit.compare` gives the cost of one batch's gradient over backprop's of the same network.

Source: each rule's own. The accuracies to expect stand in configs/rules_on_digits.yaml.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import numpy as np
from pydantic import Field, PositiveInt

import toolkit as tk
from experiments import learners
from experiments.learners import Data, Network, State, Trainer
from toolkit import run


class Contender(learners.Contender):
    """A rule, its optimizer, the network that it trains, and on what."""

    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (128, 128)
    activation: Literal["tanh", "sigmoid", "relu"] = "tanh"
    loss: Literal["cross_entropy", "half_squares"] = "cross_entropy"
    pixels: Literal["standardized", "raw"] = "standardized"  # raw: in [0, 1]


class Config(learners.Training):
    """What this experiment can be asked; a step is an epoch of every rule."""

    rules: Annotated[dict[str, Contender], Field(min_length=1)]


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""
    trainers, networks = {}, {}
    for name, one in config.rules.items():
        shape = (one.hidden, one.activation, one.loss, one.pixels)
        own = networks.setdefault(shape, network(one))
        trainers[name] = learners.trainer(own, one)

    def finish(state: State, data: dict[str, Data]) -> run.Final:
        return conclude(config, trainers, state, data)

    kinds = sorted({one.pixels for one in config.rules.values()})
    data = {kind: learners.digits(config, standardized=kind == "standardized") for kind in kinds}
    return learners.program(config, trainers, data, finish)


def network(contender: Contender) -> Network:
    """The network that a contender asks for."""
    units = (*contender.hidden, learners.NUM_CLASSES)
    layers = tk.models.dense_layers(units, learners.ACTIVATIONS[contender.activation])
    return learners.network(layers, learners.LOSSES[contender.loss], contender.pixels)


def conclude(
    config: Config, trainers: dict[str, Trainer], state: State, data: dict[str, Data]
) -> run.Final:
    """Accuracy of every rule, its alignment at the end, and what a gradient costs over backprop's."""
    rows = learners.measured(config, trainers, state, data)
    costs = {
        name: cost(config, one, state.learners[name], data[one.network.data])
        for name, one in trainers.items()
    }

    def line(name: str) -> str:
        time, size = (costs[name][column] for column in ("seconds_ratio", "temp_bytes_ratio"))
        price = f"time {time:.1f}, bytes {size:.1f} of backprop's"
        issues = [str(issue.name) for issue in tk.Issue(costs[name]["status"])]
        return "; ".join([learners.said(rows[name]), price, *issues])

    metrics = learners.metrics_of(rows)
    for column in ("seconds_ratio", "temp_bytes_ratio"):
        metrics |= {f"{column}/{name}": own[column] for name, own in costs.items()}
    accuracy = {name: row.accuracy for name, row in rows.items()}
    seconds = {name: np.asarray(own["seconds_ratio"]) for name, own in costs.items()}
    table = tuple((name, line(name)) for name in rows)
    return run.Final({"accuracy": accuracy, "seconds_ratio": seconds}, metrics, table)


def cost(config: Config, one: Trainer, learner: Any, data: Data) -> dict[str, Any]:
    """What a gradient of one batch costs over backprop's, and its status."""
    params = jax.tree.map(lambda leaf: leaf[0], learner.params)
    batch, key = learners.first(data, config.batch_size), jax.random.key(config.seed)
    model, loss, _ = one.network
    compared = tk.credit.compare(model, loss, params, batch, {"rule": one.rule}, key)
    return compared.to_rows()[0]
