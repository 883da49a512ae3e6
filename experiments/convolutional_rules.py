"""Do the learning rules hold in a convolutional network?

    toolkit run configs/convolutional_rules.yaml
    toolkit run configs/convolutional_rules.yaml data=fashion_mnist train_size=10000    where its files are present

Each rule trains a small convnet on images; a step of the run is an epoch of every rule. Pooling is the
mean, a map of its own below the activation, and signals come back through it as they are.

Exact rules do not care what a map is: 96.8 % with cosine 1. Direct feedback arrives at every pixel of a
convolution from a random direction of its own, which no shared kernel can line up with. The first kernels
keep a cosine of about 0, and the layers above learn to read them (95.4 %). Feedback alignment comes down
through kernels, and finds its way (0.21 in the first, 0.57 in the last convolution, 94.2 %).

Equilibrium propagation reaches 88.6 % after 10 epochs: its gradient has cosine 0.99 with the true one of its
own prediction, but a network that settles computes another function than the forward pass, and this one
is trained by half the squared error at the step size of the others.

Source: each rule's own; convolutions under feedback alignment: Moskovitz, Litwin-Kumar & Abbott 2018; under
direct feedback: Refinetti et al. 2021, section 5.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

import toolkit as tk
from experiments import learners
from experiments.learners import Data, Network, State
from toolkit import run


class Contender(learners.Contender):
    """A rule, its optimizer, and how the network under it is completed."""

    optimizer: tk.optimizers.Optimizer = tk.optimizers.Adam(learning_rate=5e-3)
    activation: Literal["tanh", "sigmoid", "relu"] = "tanh"
    loss: Literal["cross_entropy", "half_squares"] = "cross_entropy"


class Config(learners.Training):
    """What this experiment can be asked; a step is an epoch of every rule."""

    draws: Annotated[int, Field(ge=2)] = 3
    data: Literal["digits", "fashion_mnist", "cifar10"] = "digits"
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (16, 32)
    rules: Annotated[dict[str, Contender], Field(min_length=1)]


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""
    trainers, networks = {}, {}
    for name, one in config.rules.items():
        shape = (one.activation, one.loss)
        own = networks.setdefault(shape, network(config, one))
        trainers[name] = learners.trainer(own, one)

    def finish(state: State, data: dict[str, Data]) -> run.Final:
        return learners.conclude(config, trainers, state, data)

    return learners.program(config, trainers, {"images": load(config)}, finish)


def load(config: Config) -> Data:
    """The images, `[B, height, width, channels]`."""
    if config.data == "digits":
        return learners.digits(config, (8, 8, 1))
    return learners.images(config, getattr(tk.data, config.data))


def network(config: Config, contender: Contender) -> Network:
    """The network that a contender asks for."""
    activation = learners.ACTIVATIONS[contender.activation]
    layers = tk.models.conv_layers(config.channels, learners.NUM_CLASSES, activation)
    return learners.network(layers, learners.LOSSES[contender.loss], "images")


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """Accuracy, and how the first kernels come to point the right way."""
    draw, names = run.pictures, list(config.rules)
    return (
        draw.heat_map(
            "Alignment of the first convolution",
            "Cosine of the rule's gradient with the true one of its own prediction, mean over draws.",
            [draw.column(rows, f"cosine_first/{name}") for name in names],
            names,
            [f"{row['step']:g}" for row in rows],
            limits=(-1.0, 1.0),
            cmap="RdBu",
            wide=True,
            xlabel="epoch",
        ),
        learners.accuracy_bars(names, params),
    )
