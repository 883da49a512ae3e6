"""How good must an optical co-processor be to train a network by direct feedback?

    toolkit run configs/photonic_feedback.yaml

Light in a scattering medium multiplies by a large random matrix at no cost. In direct feedback alignment it
projects the error of the output onto all hidden layers. What it can take in is -1, 0 and 1; what comes out
is noisy and is read by a camera of few values. A network is trained with each threshold of the input, each noise,
and each number of values that the camera tells apart, the device being otherwise the one of the config.

The threshold must exceed 1/classes. An untrained softmax has an error of about 0.1 at every wrong class of
ten: a threshold of 0.1 or less fires at most of them, every hidden unit is pushed one way, and tanh
saturates. Then 17 % of the digits are read, where a threshold of 0.15 reads 95.5 %. (The run warns of these
thresholds on purpose.) Noise as large as the signal costs half a percent, and a camera of two values
nothing. An odd number of few values, one of which is 0, is worse. On standardized pixels,
`pixels=standardized`, the first outputs already differ from image to image, and low thresholds do no harm.

Source: Launay et al. 2020, Hardware Beyond Backpropagation: a Photonic Co-Processor for Direct Feedback
Alignment.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from pydantic import Field, NonNegativeFloat, PositiveInt

import toolkit as tk
from experiments import learners
from experiments.learners import Contender, Data, State
from toolkit import run
from toolkit.credit import PhotonicProjection


class Config(learners.Training):
    """What this experiment can be asked; a step is an epoch of every network."""

    pixels: Literal["raw", "standardized"] = "raw"  # raw: in [0, 1]
    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (128, 128)
    optimizer: tk.optimizers.Optimizer = tk.optimizers.Adam(learning_rate=1e-3)
    threshold: NonNegativeFloat = 0.2  # of the device, where another property is varied
    levels: Annotated[int, Ge(2)] = 64
    noise: NonNegativeFloat = 0.1
    thresholds: tuple[NonNegativeFloat, ...] = (0.05, 0.1, 0.12, 0.15, 0.3, 0.5)
    many_levels: tuple[Annotated[int, Ge(2)], ...] = (2, 3, 4, 8)
    noises: tuple[NonNegativeFloat, ...] = (0.0, 0.5, 1.0, 2.0)


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""
    layers = tk.models.dense_layers((*config.hidden, learners.NUM_CLASSES))
    network = learners.network(layers, learners.LOSSES["cross_entropy"], "images")
    contenders = {
        name: Contender(rule=rule, optimizer=config.optimizer)
        for name, rule in rules(config).items()
    }
    trainers = {name: learners.trainer(network, one) for name, one in contenders.items()}

    def finish(state: State, data: dict[str, Data]) -> run.Final:
        return learners.conclude(config, trainers, state, data)

    images = learners.digits(config, standardized=config.pixels == "standardized")
    return learners.program(config, trainers, {"images": images}, finish)


def rules(config: Config) -> dict[str, Any]:
    """Backprop, an ideal projection, the device of the config, and its variations, by name."""
    device = PhotonicProjection(config.threshold, config.levels, config.noise)
    varied = {
        f"{field}={value:g}": dataclasses.replace(device, **{field: value})
        for field, values in variations(config).items()
        for value in values
    }
    devices = {"ideal": tk.credit.GaussianProjection(), "device": device, **varied}
    direct = {name: tk.credit.DirectFeedbackAlignment(one) for name, one in devices.items()}
    return {"backprop": tk.credit.Backprop(), **direct}


def variations(config: Config) -> dict[str, tuple[float, ...]]:
    """What is varied, and its values."""
    return {"threshold": config.thresholds, "levels": config.many_levels, "noise": config.noises}


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """Accuracy against each property of the device."""
    return (
        _against(
            "threshold",
            "Threshold of the ternary input",
            "At or below 1/classes it fires at every wrong class of an untrained network.",
            config,
            params,
            down={"1/classes": 1 / learners.NUM_CLASSES},
        ),
        _against(
            "levels",
            "Values of the camera",
            "Evenly spaced between the ends of each example's signal.",
            config,
            params,
            xscale="log",
        ),
        _against(
            "noise",
            "Noise of the projection",
            "Standard deviation over the root mean square of the signal.",
            config,
            params,
        ),
    )


def _against(
    field: str, title: str, caption: str, config: Config, params: dict[str, Any], **look: Any
) -> run.Figure:
    """Held-out accuracy over one property; the device of the config stands among the varied ones."""
    draw, accuracy = run.pictures, params["accuracy"]
    found = {value: accuracy[f"{field}={value:g}"] for value in variations(config)[field]}
    found = dict(sorted({**found, getattr(config, field): accuracy["device"]}.items()))
    per_draw = 100 * np.stack(list(found.values()), axis=1)
    line = draw.over_seeds(list(found), per_draw, marker="o")
    return draw.curves(
        title,
        f"{caption} Mean over draws, in a band from the worst to the best.",
        {"photonic": line},
        across={
            "ideal projection": 100 * accuracy["ideal"].mean(),
            "backprop": 100 * accuracy["backprop"].mean(),
        },
        xlabel=field,
        ylabel="held-out accuracy, %",
        **look,
    )
