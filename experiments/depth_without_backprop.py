"""Which learning rules still point the right way when a network is deep?

    toolkit run configs/depth_without_backprop.yaml

Each rule trains tanh networks of 4, 8 and 16 hidden layers on handwritten digits; a step of the run is an
epoch of all of them. Before each epoch the rule's gradient of one batch is held, layer by layer, against the
derivative of the loss at the rule's own prediction.

A signal that is exact at each layer stays exact at any depth, and dual propagation and nudged predictive
coding train 16 layers as backprop does. One that comes down through fixed feedback turns at each layer: after
16 of them the first layer hears noise (cosine 0.07), and 92 % become 70. One that jumps straight to each
layer loses less. Rules that relax hear of the target late: a sweep over every other layer in turn carries it
two layers down, so that four sweeps reach eight layers, and the first of nine does not learn (cosine 0).

Source: each rule's own; the question: Bartunov et al. 2018, Assessing the Scalability of
Biologically-Motivated Deep Learning Algorithms and Architectures.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field, PositiveInt

import toolkit as tk
from experiments import learners
from experiments.learners import Contender, Data, Network, State, Trainer
from toolkit import run


class Config(learners.Training):
    """What this experiment can be asked; a step is an epoch of every network."""

    draws: Annotated[int, Field(ge=2)] = 3
    depths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (4, 8, 16)  # hidden layers
    width: PositiveInt = 64
    rules: Annotated[dict[str, Contender], Field(min_length=1)]


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""
    networks = {depth: network(config, depth) for depth in config.depths}
    trainers = {
        label(rule, depth): learners.trainer(networks[depth], contender)
        for rule, contender in config.rules.items()
        for depth in config.depths
    }

    def finish(state: State, data: dict[str, Data]) -> run.Final:
        return conclude(config, trainers, state, data)

    return learners.program(config, trainers, {"images": learners.digits(config)}, finish)


def label(rule: str, depth: int) -> str:
    """The name of a network in metrics."""
    return f"{rule}_{depth}"


def network(config: Config, depth: int) -> Network:
    """`depth` hidden layers."""
    layers = tk.models.dense_layers((*[config.width] * depth, learners.NUM_CLASSES))
    return learners.network(layers, learners.LOSSES["cross_entropy"], "images")


def conclude(
    config: Config, trainers: dict[str, Trainer], state: State, data: dict[str, Data]
) -> run.Final:
    """Accuracy and alignment of every layer at the end."""
    rows = learners.measured(config, trainers, state, data)

    def line(rule: str) -> str:
        own = [rows[label(rule, depth)] for depth in config.depths]
        return ", ".join(f"{100 * o.accuracy.mean():.1f} % ({o.cosines[0]:.2f})" for o in own)

    head = f"accuracy (cosine of the first layer) at {', '.join(map(str, config.depths))} hidden layers"
    table = (("", head), *((rule, line(rule)) for rule in config.rules))
    cosine = {name: row.cosines for name, row in rows.items()}
    return run.Final({"cosine": cosine}, learners.metrics_of(rows), table)


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """Every layer's alignment in the deepest network, and each rule over depth."""
    draw, names, deepest = run.pictures, list(config.rules), max(config.depths)
    depths = [str(depth) for depth in config.depths]
    colors = {"limits": (-1.0, 1.0), "cmap": "RdBu"}

    def over_depth(of: str) -> np.ndarray:
        return np.array([[metrics[f"{of}/{label(n, d)}"] for d in config.depths] for n in names])

    return (
        draw.heat_map(
            f"Alignment of each layer, {deepest} hidden layers",
            "Cosine with the true gradient after training, mean over draws; layer 1 is the first.",
            np.array([params["cosine"][label(name, deepest)] for name in names]),
            names,
            [str(k + 1) for k in range(deepest)],
            wide=True,
            xlabel="layer",
            **colors,
        ),
        draw.heat_map(
            "Alignment of the first layer over depth",
            "Cosine after training: what is left of the signal when it has come through all layers.",
            over_depth("cosine_first"),
            names,
            depths,
            xlabel="hidden layers",
            **colors,
        ),
        draw.heat_map(
            "Held-out accuracy over depth, %",
            "Mean over draws.",
            100 * over_depth("accuracy"),
            names,
            depths,
            limits=(0.0, 100.0),
            written=".0f",
            xlabel="hidden layers",
        ),
    )
