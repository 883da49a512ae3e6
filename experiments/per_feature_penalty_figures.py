"""The pictures of `per_feature_penalty`."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.per_feature_penalty import Config, load
from toolkit import run
from toolkit.data import BREAST_CANCER_FEATURES


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """All of them, as the report shows them."""
    pictures = (_descent(metrics, rows), _grid(params, metrics))
    if config.penalties == "shared":
        return pictures
    trusted = _pixels(config, params) if config.dataset == "digits" else _features(config, params)
    return (*pictures, trusted, _histogram(config, params, metrics))


def _descent(metrics: dict[str, float], rows: list[dict[str, Any]]) -> run.Figure:
    draw = run.pictures
    steps = [row["step"] - 1 for row in rows]  # a row's losses are of the penalties before its step
    lines = {
        name: draw.Curve(steps, draw.column(rows, f"{name}_loss"), look={"color": color})
        for name, color in (("validation", "C0"), ("stopping", "C2"), ("test", "C1"))
    }
    for name, color in (("validation", "C0"), ("test", "C1")):
        shared = 2 * [metrics[f"{name}_loss_shared"]]
        lines[f"_{name}, shared"] = draw.Curve([steps[0], steps[-1]], shared, look=_dashed(color))
    return draw.curves(
        "What the penalties learn",
        "Dashed: the best shared penalty. Dotted: where the stopping loss is least. The test loss "
        "decides nothing.",
        lines,
        down={"_stopped": metrics["stopped_at"]},
        xlabel="outer steps made",
        ylabel="loss",
        yscale="log",
    )


def _grid(params: dict[str, Any], metrics: dict[str, float]) -> run.Figure:
    draw, grid = run.pictures, np.asarray(params["grid"])
    lines = {}
    for name, learned, color in (
        ("validation", metrics["validation_loss_learned"], "C0"),
        ("test", metrics["test_loss_stopped"], "C1"),
    ):
        look = {"color": color, "marker": "."}
        lines[name] = draw.Curve(grid, params[f"grid_{name}_loss"], look=look)
        lines[f"_{name}, learned"] = draw.Curve(grid[[0, -1]], 2 * [learned], look=_dashed(color))
    return draw.curves(
        "One penalty for all",
        "Dashed: the learned penalties, validation loss at the end and test loss where stopped.",
        lines,
        xlabel="shared penalty",
        ylabel="loss",
        xscale="log",
        yscale="log",
    )


def _dashed(color: str) -> dict[str, Any]:
    return {"color": color, "linestyle": "--", "linewidth": 1}


def _pixels(config: Config, params: dict[str, Any]) -> run.Figure:
    maps = means_by_source(config, params["log_penalty_stopped"]).T
    several = len(maps) > 1
    return run.pictures.images(
        "How much each pixel is trusted",
        "A low penalty is trust. Mean over a pixel and its products, where stopped; blank where it "
        "never varies.",
        maps.reshape(-1, 8, 8),
        titles=[str(digit) for digit in range(len(maps))] if several else (),
        columns=5,
        cmap="viridis",
        scale="mean log10 penalty",
        wide=several,
    )


def _features(config: Config, params: dict[str, Any]) -> run.Figure:
    values = means_by_source(config, params["log_penalty_stopped"])[:, 0]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot(values, range(len(values)), "o", markersize=4)
        axes.axvline(np.log10(config.penalty), linewidth=1, color="0.5")
        axes.set_yticks(range(len(values)), BREAST_CANCER_FEATURES, fontsize=6)
        axes.invert_yaxis()
        axes.locator_params(axis="x", nbins=6)
        axes.set(xlabel="mean log10 penalty")

    return run.Figure(
        "How much each feature is trusted",
        "A low penalty is trust. Mean over a feature and its products, where stopped; blank where it "
        "never varies.",
        draw,
        wide=True,
    )


def _histogram(config: Config, params: dict[str, Any], metrics: dict[str, float]) -> run.Figure:
    logs = np.ravel(params["log_penalty_stopped"]) / np.log(10)
    return run.pictures.histogram(
        "The learned penalties",
        f"All {metrics['penalties']:,}, where stopped. Those stay at the start whose product never "
        "varies in training.",
        {"_all": logs},
        down={
            "start": float(np.log10(config.penalty)),
            "best shared": float(np.log10(metrics["best_shared_penalty"])),
        },
        xlabel="log10 penalty",
        ylabel="penalties",
        yscale="log" if logs.size > 1000 else "linear",  # thousands stay where they started
    )


def means_by_source(config: Config, log_penalty: np.ndarray) -> np.ndarray:
    """`[features of the data, K or 1]` mean log10 penalty of what a feature takes part in.

    NaN for a feature that is constant in the training part, and so says nothing.
    """
    data = load(config.model_copy(update={"products": False}))
    varies = np.std(np.asarray(data.train.images), axis=0) > 0
    size = len(varies)
    logs = np.asarray(log_penalty, np.float64) / np.log(10)
    sources = [(i,) for i in range(size)]
    if config.products:
        sources += [tuple({i, j}) for i, j in zip(*np.triu_indices(size), strict=True)]
    sums, counts = np.zeros((size, logs.shape[1])), np.zeros((size, 1))
    for source, row in zip(sources, logs, strict=True):
        if varies[list(source)].all():
            sums[list(source)] += row
            counts[list(source)] += 1
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
