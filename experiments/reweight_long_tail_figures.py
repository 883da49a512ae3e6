"""The pictures of `reweight_long_tail`."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.reweight_long_tail import END, ROWS, Config
from experiments.reweight_long_tail_digits import NUM_CLASSES, class_sizes, weight_of_loss
from toolkit import run

COLORS = {name: f"C{i}" for i, name in enumerate(ROWS)}
# What learned weights are compared with, as words that fit below the points.
OTHERS = {
    "plain": "plain",
    "inverse": "inverse\nfrequency",
    "validation": "validation\nalone",
    "pooled": "pooled",
    "pooled_inverse": "pooled,\ninverse",
}


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """All of them, as the report shows them."""
    pictures = [
        _learning(config, rows),
        _gains(params),
        _found(config, params),
        _weights(config, params),
    ]
    if config.weights == "loss":
        pictures.append(_function_of_loss(params))
    return tuple(pictures)


def _learning(config: Config, rows: list[dict[str, Any]]) -> run.Figure:
    draw = run.pictures
    steps = [row["step"] - 1 for row in rows]  # a row is of the weights before its step

    def error(name: str) -> Any:
        return draw.Curve(steps, 1 - np.asarray(draw.column(rows, name)))

    return draw.curves(
        "Learning",
        f"With the classifier trained to convergence; mean over {config.draws} draws. The tail: the "
        f"{END} rarest classes.",
        {
            "validation loss": draw.Curve(steps, draw.column(rows, "validation_loss")),
            "test loss": draw.Curve(steps, draw.column(rows, "test_loss")),
            "test error": error("test_accuracy"),
            "its tail": error("test_accuracy_tail"),
        },
        xlabel="outer steps made",
        ylim=(0, None),
    )


def _gains(params: dict[str, Any]) -> run.Figure:
    accuracy = {name: np.asarray(params["recalls"][name]).mean(axis=1) for name in ROWS}
    return run.pictures.points(
        "What learned weights gain over",
        "A point is a draw. Pooled: the validation part is trained on.",
        {words: 100 * (accuracy["learned"] - accuracy[name]) for name, words in OTHERS.items()},
        colors={words: COLORS[name] for name, words in OTHERS.items()},
        across={"_no gain": 0},
        ylabel="gain in test accuracy, points",
    )


def _found(config: Config, params: dict[str, Any]) -> run.Figure:
    draw, places, lines = run.pictures, np.arange(NUM_CLASSES), {}
    for i, (name, words) in enumerate(ROWS.items()):
        values = 100 * np.asarray(params["recalls"][name], np.float64)
        # Draws share digits, so this is their spread and not an error of the mean.
        mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
        look = {"fmt": "o", "markersize": 4, "linewidth": 1, "color": COLORS[name]}
        shift = (i - 2.5) * 0.1
        lines[words] = draw.Curve(places + shift, mean, mean - spread, mean + spread, True, look)
    return draw.curves(
        "Which classes are found",
        f"The most frequent class on the left. Mean and standard deviation over {config.draws} draws.",
        lines,
        legend={"fontsize": 8, "ncols": 2},
        wide=True,
        xlabel="training digits of the class",
        ylabel="found on the test part, %",
        xticks=places,
        xticklabels=_sizes(config),
    )


def _weights(config: Config, params: dict[str, Any]) -> run.Figure:
    draw, places = run.pictures, np.arange(NUM_CLASSES)
    each = np.asarray(params["class_weights"], np.float64)
    sizes = class_sizes(config.head_size, config.imbalance)
    color = COLORS["learned"]
    point = {"color": color, "marker": ".", "linestyle": "none", "alpha": 0.5}
    lines = {f"_{i}": draw.Curve(places, values, look=point) for i, values in enumerate(each)}
    lines["learned"] = draw.Curve(places, np.exp(np.log(each).mean(axis=0)), look={"color": color})
    lines["inverse frequency"] = draw.Curve(
        places,
        sizes.sum() / (NUM_CLASSES * sizes),
        look={"color": COLORS["inverse"], "linestyle": "--"},
    )
    return draw.curves(
        "What a digit weighs",
        "A point is the mean weight of a class in a draw; the line is their geometric mean.",
        lines,
        xlabel="training digits of the class",
        ylabel="weight of a digit",
        yscale="log",
        xticks=places,
        xticklabels=_sizes(config),
    )


def _function_of_loss(params: dict[str, Any]) -> run.Figure:
    draw = run.pictures
    loss = np.geomspace(1e-3, 10, 200, dtype=np.float32)
    look = {"color": COLORS["learned"], "alpha": 0.6, "linewidth": 1}
    lines = {}
    for i, theta in enumerate(np.asarray(params["theta"])):
        values = np.asarray(weight_of_loss(jnp.asarray(theta), jnp.asarray(loss)))
        lines[f"_{i}"] = draw.Curve(loss, values, look=look)
    return draw.curves(
        "Weight as a function of the loss",
        "One line a draw; 1 at the start. The penalty stays the same, so that scale matters.",
        lines,
        xlabel="loss of a digit",
        ylabel="its weight",
        xscale="log",
        ylim=(0, 2),
    )


def _sizes(config: Config) -> list[str]:
    return [str(size) for size in class_sizes(config.head_size, config.imbalance)]
