"""What does each derivative rule cost, and how far is it from the truth?

    toolkit run configs/compare_rules.yaml        about 60 s on 2 cores, most of it compilation

One problem, every rule: multinomial logistic regression on 1,000 digits with one penalty a pixel
(64 hyperparameters), solved by gradient descent with momentum; the outer loss is the cross-entropy
on 500 others. The first rule of the config is the one that the others are compared with: the
implicit rule with a linear solve to rounding, on a run that has converged.

Expect: unrolling, checkpoints and forward mode agree to 1e-3 or better, as far as the solve has
converged; a truncated Neumann series and 20 steps are biased by a few per cent or more; one step
keeps little more than the sign. Seconds are of this machine, now: compare them with each other.
"""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

import toolkit as tk
from toolkit import catalogue, run

COSTS = ("seconds", "temp_bytes", "hvp_evals")


class Config(run.Settings):
    """What this experiment can be asked; the first of `adjoints` is the reference."""

    steps: Annotated[int, Field(ge=1, le=1)] = 1
    log_every: int = 1
    checkpoint_every: int = 1
    train_size: Annotated[int, Field(ge=10)] = 1000
    validation_size: Annotated[int, Field(ge=10)] = 500
    log_penalty: float = -4.0
    solver: catalogue.Solver
    adjoints: dict[str, catalogue.Adjoint]


def problem(config: Config) -> tuple[Any, Any, jax.Array, jax.Array]:
    """(inner, outer, y0, theta) of the comparison."""
    sizes = (config.train_size, config.validation_size)
    train, validation, _ = tk.data.split(jax.random.key(config.seed), tk.data.digits(), *sizes)

    def loss(y: jax.Array, data: tk.data.Labelled) -> jax.Array:
        scores = data.images @ y
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, data.labels))

    def inner(y: jax.Array, theta: jax.Array) -> jax.Array:
        return loss(y, train) + 0.5 * jnp.sum(jnp.exp(theta)[:, None] * y**2)

    def outer(y: jax.Array, theta: jax.Array) -> jax.Array:
        return loss(y, validation)

    return inner, outer, jnp.zeros((64, 10)), jnp.full(64, config.log_penalty)


def build(config: Config) -> run.Program:
    """A run of one step, whose work is done at its end."""
    inner, outer, y0, theta = problem(config)

    def finish(_: jax.Array) -> run.Final:
        rules = {name: kind.build() for name, kind in config.adjoints.items()}
        comparison = tk.compare_adjoints(inner, outer, config.solver.build(), y0, theta, rules)
        rows = comparison.to_rows()
        made = [row for row in rows if row["gradient"] is not None]
        metrics = {f"relative_error/{row['rule']}": row["relative_error"] for row in made}
        params = {
            "gradient": {row["rule"]: np.asarray(row["gradient"]) for row in made},
            "cost": {row["rule"]: np.array([row[name] for name in COSTS]) for row in made},
        }
        names = max(len(row["rule"]) for row in rows)
        table = tuple((line[:names], line[names:]) for line in str(comparison).splitlines())
        return run.Final(params, metrics, table)

    return run.Program(lambda key: jnp.zeros(()), lambda state: (state, {}), finish)


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """Error against time, and the gradients as pictures."""
    gradients, costs = params["gradient"], params["cost"]
    names = [name for name in config.adjoints if name in gradients]

    def table(figure: Any) -> None:
        axes = figure.subplots()
        axes.set_axis_off()
        cells = [
            [name, f"{metrics[f'relative_error/{name}']:.1e}", f"{1e3 * seconds:.3g}"]
            + [f"{memory / 1024:,.0f}", f"{products:,.0f}"]
            for name in names
            for seconds, memory, products in [costs[name]]
        ]
        head = ["rule", "relative error", "milliseconds", "temporary KiB", "HVPs"]
        drawn = axes.table(cells, colLabels=head, loc="center", cellLoc="right", edges="horizontal")
        drawn.scale(1, 1.35)

    def trade(figure: Any) -> None:
        axes = figure.subplots()
        for name in names:
            error = max(metrics[f"relative_error/{name}"], 1e-7)
            milliseconds = 1e3 * costs[name][0]
            axes.plot(milliseconds, error, "o")
            axes.annotate(
                name, (milliseconds, error), xytext=(5, 3), textcoords="offset points", fontsize=8
            )
        axes.set(xlabel="milliseconds", ylabel="relative error", xscale="log", yscale="log")

    def pictures(figure: Any) -> None:
        columns = -(-len(names) // 2)
        largest = max(float(np.abs(gradients[name]).max()) for name in names)
        for axes in figure.subplots(2, columns).flat:
            axes.set_axis_off()
        for axes, name in zip(figure.axes, names, strict=False):
            image = np.asarray(gradients[name]).reshape(8, 8)
            axes.imshow(image, cmap="RdBu", vmin=-largest, vmax=largest)
            axes.set_title(name, fontsize=8, fontweight="normal")

    return (
        run.Figure(
            "Rules", "Against the first; costs of one hypergradient, compiled.", table, wide=True
        ),
        run.Figure(
            "Error against time",
            "Against the first rule; errors below 1e-7 are drawn there.",
            trade,
        ),
        run.Figure(
            "The hypergradient of each pixel's penalty", "One picture a rule, one scale.", pictures
        ),
    )
