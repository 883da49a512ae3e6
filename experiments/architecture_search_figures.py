"""The pictures of `architecture_search`."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.architecture_search import RULES, Config
from experiments.architecture_search_cells import EDGES, OPERATIONS
from toolkit import run

COLORS = {rule: f"C{i}" for i, rule in enumerate(RULES)}


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """All of them, as the report shows them."""
    updates = [row["step"] * config.updates - 1 for row in rows]  # a row is of before its last one
    pictures = [_descent(config, updates, rows), _places(config, params), _gates(config, params)]
    if set(config.rules) - {"exact"}:
        pictures.insert(1, _angles(config, updates, rows))
    return tuple(pictures)


def _descent(config: Config, updates: list[int], rows: list[dict[str, Any]]) -> run.Figure:
    draw = run.pictures
    lines = {
        RULES[rule]: draw.Curve(
            updates, draw.column(rows, f"loss_{rule}"), look={"color": COLORS[rule]}
        )
        for rule in config.rules
    }
    return draw.curves(
        "What the searches descend",
        f"Validation loss of the mixed cell with its weights trained to convergence, whatever "
        f"weights the rule itself had; mean over {config.draws} draws.",
        lines,
        xlabel="updates of theta made",
        ylabel="F(theta)",
    )


def _angles(config: Config, updates: list[int], rows: list[dict[str, Any]]) -> run.Figure:
    draw, lines = run.pictures, {}
    for rule in config.rules:
        if rule == "exact":
            continue
        for name, label, style in (
            ("cosine", RULES[rule], "-"),
            ("cosine_trained", f"_{rule}, trained", ":"),
        ):
            look = {"color": COLORS[rule], "linestyle": style}
            lines[label] = draw.Curve(updates, draw.column(rows, f"{name}_{rule}"), look=look)
    return draw.curves(
        "How far off are the cheap directions?",
        "Cosine with the exact hypergradient at the same theta, mean over the draws. Dotted: "
        "the same rule with weights trained to convergence.",
        lines,
        across={"_right angle": 0},
        xlabel="updates of theta made",
        ylabel="cosine",
        ylim=(None, 1),
    )


def _places(config: Config, params: dict[str, Any]) -> run.Figure:
    accuracies = np.asarray(params["all"]["test_accuracy"])  # [216, draws]
    above = 100 * (accuracies - accuracies.mean(axis=0))
    draws = np.arange(config.draws)
    found = {name: np.asarray(params["found"][name]) for name in (*config.rules, "exhaustive")}
    words = {name: RULES.get(name, "least validation loss").replace(" ", "\n") for name in found}
    return run.pictures.points(
        "What is found, among all 216",
        f"Test accuracy of each architecture trained from scratch, less the mean of all on the same "
        f"draw; {config.draws} draws.",
        {"all": above} | {words[name]: above[chosen, draws] for name, chosen in found.items()},
        colors={"all": "0.5"} | {words[name]: COLORS.get(name, "0.5") for name in found},
        sizes={"all": 1} | {words[name]: 5 for name in found},
        means=False,
        wide=True,
        ylabel="test accuracy, points above the mean",
    )


def _gates(config: Config, params: dict[str, Any]) -> run.Figure:
    def draw(figure: Any) -> None:
        grid = figure.subplots(1, len(config.rules), squeeze=False)[0]
        for axes, rule in zip(grid, config.rules, strict=True):
            theta = np.asarray(params["theta"][rule], np.float64)[0]
            picture = axes.imshow(
                np.exp(theta) / np.exp(theta).sum(axis=1, keepdims=True),
                vmin=0,
                vmax=1,
                aspect="auto",
            )
            axes.set_title(RULES[rule], fontsize=9, fontweight="normal")
            axes.set_xticks(range(len(OPERATIONS)), OPERATIONS, rotation=60, fontsize=8)
            axes.set_yticks(range(EDGES), [f"e{k + 1}" for k in range(EDGES)])
            axes.spines[:].set_visible(False)
        figure.colorbar(picture, ax=list(grid), label="gate", shrink=0.8)

    return run.Figure("The gates", "At the end, on the first draw.", draw, wide=True)
