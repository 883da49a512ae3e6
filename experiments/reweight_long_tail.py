"""How much should the digits of a rare class weigh, if fifty balanced ones may decide?

    toolkit run configs/reweight_long_tail.yaml                      about 30 s on 2 cores
    toolkit run configs/reweight_long_tail.yaml weights=example      a weight a digit
    toolkit run configs/reweight_long_tail.yaml weights=loss         a weight that is a function of the loss

The training digits have a long tail: 100 of the most frequent class, 2 of the rarest, sizes falling
geometrically between; which digit is rare is drawn. A small validation part and the test part are
balanced. The weights descend the validation loss by hypergradient:

    min_theta  mean_val CE(y*(theta))
    y*(theta) = argmin_y  mean_i Phi_i(CE_i(y)) + l2 / 2 |y|^2        linear softmax regression

Either `Phi_i(c) = w_i c` with one weight `w` a class or a digit, of mean 1. Or one `Phi` for all digits,
whose slope at a loss is the weight of a digit with this loss, as in Meta-Weight-Net.

Expect (5 seeds of 10 draws; test accuracy in %, range over seeds of the mean over draws, whose standard
deviation is 1 to 4, in the tail 3 to 12; head and tail are the 3 most frequent and the 3 rarest classes):

                                                       all             head            tail
    long tail, plain                                   79.5 to 80.5    97.3 to 98.4    50.1 to 57.3
    long tail, inverse frequency                       86.4 to 88.0    96.2 to 97.3    70.5 to 75.9
    long tail, learned, one a class                    87.7 to 89.4    93.9 to 95.5    77.8 to 82.7
    long tail, learned, a function of the loss (2)     81.7 to 82.1    97.3 to 97.9    56.7 to 58.3
    validation part alone                              85.0 to 87.2    83.6 to 88.9    81.7 to 88.7
    both, plain                                        88.2 to 90.0    97.1 to 98.1    76.7 to 81.2
    both, inverse frequency                            90.7 to 92.5    95.7 to 96.8    83.3 to 88.5

On the same draw, weights of classes gain 1.2 to 2.0 points on inverse frequency (standard deviation over
draws 0.8 to 1.3). That is far less than inverse frequency, without a validation part, gains on plain
training. Training on that part as well does as much as learning weights from it (0.3 points less to 1.9
more), and with inverse frequency it is best throughout. Weights of digits overfit (1 seed): validation loss
0.15 and test accuracy 89.1, where weights of classes have 0.33 and 89.4. Weights that see only the loss
gain 1.7 to 1.9 points on plain training (2 seeds), and no more in 400 steps.

A bit in the column `issues` says that the error of a solve may be more than ten times its tolerance,
because the curvature is small; at random weights, against a solve in float64, it was 2e-4 to 8e-4 of the
gradient.

Source: Ren et al. 2018; weight as a function of the loss: Shu et al. 2019.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

import toolkit as tk
from experiments.reweight_long_tail_digits import (
    NUM_CLASSES,
    TURNS,
    Data,
    class_sizes,
    fixed_weights,
    integral_of_weight,
    inverse_frequency,
    long_tails,
    weight_of_loss,
)
from toolkit import run
from toolkit.data import Labelled

SMALLEST_CLASS = 174  # digits of the rarest label in the whole data set
END = 3  # classes in the head, and in the tail
ROWS = {
    "plain": "long tail, plain",
    "inverse": "long tail, inverse frequency",
    "learned": "long tail, learned weights",
    "validation": "validation part alone",
    "pooled": "long tail and validation part, plain",
    "pooled_inverse": "long tail and validation part, inverse frequency",
}


class Config(run.Settings):
    """What this experiment can be asked."""

    draws: Annotated[int, Field(ge=2)] = 10  # long tails, each of other digits; `S` in shapes
    weights: Literal["class", "example", "loss"] = "class"
    head_size: PositiveInt = 100  # training digits of the most frequent class
    imbalance: Annotated[float, Field(ge=1)] = 50.0  # of them to those of the rarest class
    validation_size: PositiveInt = 5  # a class
    test_size: PositiveInt = 50  # a class
    l2: PositiveFloat = 1e-3
    solver: tk.solver.Solver = tk.solver.LBFGS(max_steps=300, tol=1e-5)
    adjoint: tk.adjoint.Adjoint = tk.adjoint.Implicit(
        linear_solver=tk.linear.CG(max_steps=500, tol=1e-3)
    )
    optimizer: tk.optimizers.Optimizer = tk.optimizers.Adam(learning_rate=0.1)

    @model_validator(mode="after")
    def _the_classes_suffice(self) -> Self:
        wanted = self.head_size + self.validation_size + self.test_size
        if wanted > SMALLEST_CLASS:
            raise ValueError(
                f"head_size + validation_size + test_size must be at most {SMALLEST_CLASS}, the digits of "
                f"the rarest label: got {wanted}; lower one of them"
            )
        return self


class State(NamedTuple):
    """All that is carried from one outer step to the next."""

    y: dict[str, jax.Array]  # [S, ...] softmax regressions
    theta: jax.Array  # [S, 10], [S, N] or [S, 2 turns] logits
    optimizer: Any
    issues: jax.Array  # tk.Issue bits of all steps so far


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""
    optimizer, adjoint = config.optimizer.build(), config.adjoint

    def levels(of: Data) -> tuple[Any, tk.SolutionMap]:
        outer = lambda y, _: jnp.mean(losses(y, of.validation))
        return outer, training(config, of.train, adjoint)

    def hypergradient(y: dict[str, jax.Array], theta: jax.Array, of: Data) -> tk.Hypergradient:
        return tk.hypergradient(*levels(of))(y, theta)

    def init(_: jax.Array, data: dict[str, Data]) -> State:
        size = {
            "class": NUM_CLASSES,
            "example": data["digits"].train.labels.shape[1],
            "loss": 2 * len(TURNS),
        }[config.weights]
        theta = jnp.zeros((config.draws, size))
        y = jax.tree.map(lambda leaf: jnp.stack([leaf] * config.draws), start())
        return State(y, theta, optimizer.init(theta), jnp.asarray(0, jnp.int32))

    def step(state: State, data: dict[str, Data]) -> tuple[State, dict[str, jax.Array]]:
        digits = data["digits"]
        hg = jax.vmap(hypergradient)(state.y, state.theta, digits)
        updates, optimizer_state = optimizer.update(hg.gradient, state.optimizer, state.theta)
        y = hg.solution.value
        found = jax.vmap(recalls_by_frequency)(y, digits)
        issues = jnp.bitwise_or.reduce(hg.report.status)
        metrics = {
            "validation_loss": jnp.mean(hg.value),
            "test_loss": jnp.mean(jax.vmap(losses)(y, digits.test)),
            "test_accuracy": jnp.mean(found),
            "test_accuracy_head": jnp.mean(found[:, :END]),
            "test_accuracy_tail": jnp.mean(found[:, -END:]),
            "gradient_norm": jnp.mean(jnp.linalg.norm(hg.gradient, axis=1)),
            "inner_residual": jnp.max(hg.report.inner_residual),
            "linear_residual": jnp.max(hg.report.linear_residual),
            "linear_steps": jnp.max(hg.report.linear_steps),
            "issues": issues,
        }
        theta = optax.apply_updates(state.theta, updates)
        return State(y, theta, optimizer_state, state.issues | issues), metrics

    def finish(state: State, data: dict[str, Data]) -> run.Final:
        return conclude(config, data["digits"], state)

    def differentiated(state: State, data: dict[str, Data]) -> dict[str, run.Loss]:
        first = lambda stacked: jax.tree.map(lambda leaf: leaf[0], stacked)
        outer, solve = levels(first(data["digits"]))
        return run.losses_of(solve, outer, *jax.eval_shape(first, (state.y, state.theta)))

    return run.Program(init, step, finish, differentiated, data={"digits": load(config)})


def load(config: Config) -> Data:
    """The seeded long tails of a config, stacked."""
    sizes = class_sizes(config.head_size, config.imbalance)
    parts = (config.validation_size, config.test_size)
    return long_tails(config.seed, config.draws, sizes, *parts)


def start() -> dict[str, jax.Array]:
    """All weights zero."""
    return {"w": jnp.zeros((64, NUM_CLASSES)), "b": jnp.zeros(NUM_CLASSES)}


def losses(y: dict[str, jax.Array], data: Labelled) -> jax.Array:
    """[B] cross-entropies."""
    scores = data.images @ y["w"] + y["b"]
    return optax.softmax_cross_entropy_with_integer_labels(scores, data.labels)


def recalls_by_frequency(y: dict[str, jax.Array], data: Data) -> jax.Array:
    """[10] the part of each class of the test part that is found; their mean is the accuracy."""
    right = jnp.argmax(data.test.images @ y["w"] + y["b"], axis=1) == data.test.labels
    of_class = data.test.labels == data.by_frequency[:, None]
    return jnp.sum(of_class & right, axis=1) / jnp.sum(of_class, axis=1)


def weighted_loss(
    y: dict[str, jax.Array], weights: jax.Array, data: Labelled, l2: float
) -> jax.Array:
    """`mean_i w_i CE_i + l2 / 2 |y|^2`."""
    return jnp.mean(weights * losses(y, data)) + l2 / 2 * optax.tree.norm(y, squared=True)


def training(config: Config, train: Labelled, adjoint: Any) -> tk.SolutionMap:
    """Training as a function of (start, theta)."""

    def of_loss(y: dict[str, jax.Array], theta: jax.Array) -> jax.Array:
        mean = jnp.mean(integral_of_weight(theta, losses(y, train)))
        return mean + config.l2 / 2 * optax.tree.norm(y, squared=True)

    def of_fixed(y: dict[str, jax.Array], theta: jax.Array) -> jax.Array:
        weights = fixed_weights(config.weights, theta, train.labels)
        return weighted_loss(y, weights, train, config.l2)

    objective = of_loss if config.weights == "loss" else of_fixed
    return tk.argmin(objective, config.solver, adjoint=adjoint)


def fit(config: Config, data: Labelled, weights: jax.Array) -> tk.Solution:
    """Training from zero under given weights."""
    solve = tk.argmin(
        lambda y, weights: weighted_loss(y, weights, data, config.l2),
        config.solver,
        adjoint=tk.adjoint.Stopped(),
    )
    return solve(start(), weights)


def trained(config: Config, data: Data, y: Any, theta: jax.Array) -> dict[str, tk.Solution]:
    """Softmax regressions of one draw, a way of using its digits each."""
    pooled = Labelled(*map(jnp.concatenate, zip(data.train, data.validation, strict=True)))
    return {
        "plain": fit(config, data.train, jnp.ones(len(data.train.labels))),
        "inverse": fit(config, data.train, inverse_frequency(data.train.labels)),
        "learned": training(config, data.train, tk.adjoint.Stopped())(y, theta),
        "validation": fit(config, data.validation, jnp.ones(len(data.validation.labels))),
        "pooled": fit(config, pooled, jnp.ones(len(pooled.labels))),
        "pooled_inverse": fit(config, pooled, inverse_frequency(pooled.labels)),
    }


def conclude(config: Config, data: Data, state: State) -> run.Final:
    """Train to convergence in each way of using the digits; compare on the test parts."""
    fitted = jax.jit(jax.vmap(lambda *draw: trained(config, *draw)))(data, state.y, state.theta)
    found = {
        name: np.asarray(jax.vmap(recalls_by_frequency)(solution.value, data))
        for name, solution in fitted.items()
    }
    parts = {"accuracy": slice(None), "head": slice(END), "tail": slice(-END, None)}
    metrics = {
        f"{part}_{name}": float(found[name][:, classes].mean())
        for part, classes in parts.items()
        for name in ROWS
    }
    for other in ("plain", "inverse", "pooled"):
        gains = found["learned"].mean(axis=1) - found[other].mean(axis=1)
        metrics[f"gain_over_{other}"] = float(gains.mean())
        metrics[f"gain_over_{other}_std"] = float(gains.std(ddof=1))
    weights, by_class = jax.vmap(lambda *draw: weights_of(config, *draw))(
        state.theta, fitted["learned"].value, data
    )
    metrics |= {
        "training_digits": data.train.labels.shape[1],
        "not_converged": sum(int(np.sum(one.info.status != 0)) for one in fitted.values()),
        "issues": int(state.issues),
    }
    table = tuple(
        (words, "  ".join(_words(part, found[name][:, parts[part]]) for part in parts))
        for name, words in ROWS.items()
    )
    params = {
        "theta": state.theta,
        "weights": weights,
        "class_weights": by_class,
        "recalls": {name: jnp.asarray(values) for name, values in found.items()},
        "model": fitted["learned"].value,
    }
    return run.Final(params, metrics, table)


def weights_of(
    config: Config, theta: jax.Array, y: dict[str, jax.Array], data: Data
) -> tuple[jax.Array, jax.Array]:
    """[N] weights of the training digits of a draw, divided by their mean; [10] their class means."""
    labels = data.train.labels
    if config.weights == "loss":
        weights = weight_of_loss(theta, losses(y, data.train))
        weights = weights / jnp.mean(weights)
    else:
        weights = fixed_weights(config.weights, theta, labels)
    of_class = labels == data.by_frequency[:, None]
    return weights, jnp.sum(of_class * weights, axis=1) / jnp.sum(of_class, axis=1)


def _words(part: str, found: np.ndarray) -> str:
    of_draws = found.mean(axis=1)
    return f"{part} {of_draws.mean():.1%} +- {of_draws.std(ddof=1):.1%}"
