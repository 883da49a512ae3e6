"""The pictures of `maml`."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from experiments.maml import SHOWN, UNTRAINED, Config
from experiments.maml_tasks import KNOWN
from toolkit import run

POINTS = 40  # of a learning curve, each the mean of the rows since the last one


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """All of them, as the report shows them."""
    example = _waves if config.problem.kind == "sinusoid" else _digits
    return (_adapting(config, params, metrics), _learning(config, rows), example(config, params))


def _adapting(config: Config, params: dict[str, Any], metrics: dict[str, float]) -> run.Figure:
    draw = run.pictures
    measure = "mse" if config.problem.kind == "sinusoid" else "accuracy"
    lines = {}
    for name in (*config.methods, UNTRAINED):
        mean, error = np.asarray(params["mean"][name]), 2 * np.asarray(params["error"][name])
        look = {"marker": ".", "color": _color(config, name)}
        lines[name] = draw.Curve(range(len(mean)), mean, mean - error, mean + error, True, look)
    scale = {"yscale": "log"} if measure == "mse" else {"ylim": (0, 1)}
    return draw.curves(
        "Adapting to held-out tasks",
        f"Mean over {config.judged_tasks:,} tasks, steps of {config.judged_step_size:g}. Bars: two "
        f"standard errors. Dashed: {KNOWN[measure]}.",
        lines,
        across={"_known": metrics[f"{measure}_known"]},
        legend={"fontsize": 8, "outside": True},
        xlabel="steps on the support examples",
        ylabel=f"query {measure}",
        **scale,
    )


def _learning(config: Config, rows: list[dict[str, Any]]) -> run.Figure:
    draw, width = run.pictures, max(1, len(rows) // POINTS)
    starts = range(0, len(rows) - width + 1, width)
    steps = [rows[i + width - 1]["step"] for i in starts]
    lines = {}
    for name in config.methods:
        losses = draw.column(rows, f"outer_loss/{name}")
        means = [np.mean(losses[i : i + width]) for i in starts]
        lines[name] = draw.Curve(steps, means, look={"color": _color(config, name)})
    return draw.curves(
        "Learning the starts",
        "After each method's own adaptation, on training tasks; where a start learns from the "
        "displacement, on the examples adapted to.",
        lines,
        legend={"fontsize": 8},
        xlabel="outer step",
        ylabel="loss after adaptation",
        yscale="log",
    )


def _color(config: Config, name: str) -> str:
    """A color a method, and grey for none."""
    return f"C{list(config.methods).index(name)}" if name in config.methods else "0.5"


def _waves(config: Config, params: dict[str, Any]) -> run.Figure:
    example = jax.tree.map(np.asarray, params["example"])
    steps = (0, 1, config.judged_steps)

    def draw(figure: Any) -> None:
        figure.set_size_inches(figure.get_figwidth(), 1.9 * SHOWN)
        grid = figure.subplots(SHOWN, len(config.methods), sharex=True, sharey="row", squeeze=False)
        for wave, line in enumerate(grid):
            x = example["query"]["inputs"][wave, :, 0]
            order = np.argsort(x)
            for axes, name in zip(line, config.methods, strict=True):
                predictions = example["predictions"][name][wave, :, :, 0]
                targets = example["query"]["targets"][wave, :, 0]
                axes.plot(x[order], targets[order], color="0.5", linewidth=3, alpha=0.4)
                for k, style in zip(steps, (":", "--", "-"), strict=True):
                    axes.plot(
                        x[order],
                        predictions[k][order],
                        style,
                        color="C0",
                        linewidth=1,
                        label=f"{k}",
                    )
                support = example["support"]
                axes.plot(support["inputs"][wave, :, 0], support["targets"][wave, :, 0], "C1.")
                axes.set_ylim(1.6 * targets.min(), 1.6 * targets.max())
                if wave == 0:
                    axes.set_title(name, fontsize=9, fontweight="normal")

    return run.Figure(
        "Held-out waves",
        f"Grey the wave, dots the support examples; dotted the start, dashed after 1 step, solid "
        f"after {config.judged_steps}.",
        draw,
        wide=True,
    )


def _digits(config: Config, params: dict[str, Any]) -> run.Figure:
    ways, first = config.problem.ways, next(iter(config.methods))
    columns = min(config.problem.judged_queries, 12)
    example = jax.tree.map(np.asarray, params["example"])
    guesses = np.argmax(example["predictions"][first][0, -1], axis=-1).reshape(ways, -1)
    parts = [example[part]["inputs"][0].reshape(ways, -1, 8, 8) for part in ("support", "query")]

    def draw(figure: Any) -> None:
        figure.set_size_inches(figure.get_figwidth(), 0.8 * ways)
        for way, line in enumerate(figure.subplots(ways, columns + 1, squeeze=False)):
            for column, axes in enumerate(line):
                image = parts[0][way, 0] if column == 0 else parts[1][way, column - 1]
                axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(column == 0)
                if column > 0 and guesses[way, column - 1] != way:
                    axes.set_title(f"taken for {guesses[way, column - 1] + 1}", fontsize=7)
            line[0].set_ylabel(f"{way + 1}", rotation=0, labelpad=8)

    return run.Figure(
        "A held-out task",
        f"Framed the first of {config.problem.shots} support images of each kind, beside it query "
        f"images; above them what {first} mistakes after {config.judged_steps} steps.",
        draw,
        wide=True,
    )
