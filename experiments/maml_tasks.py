"""What `maml` adapts to and what it adapts: two families of tasks, and a network of layers.

The network is not `tk.models.mlp`, because a method may adapt its last layer alone: here a layer is an entry of a tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import BaseModel, Field, PositiveInt, model_validator

import toolkit as tk
from toolkit.problems import few_shot
from toolkit.problems.few_shot import Examples, Task
from toolkit.run.experiment.common import STRICT

KNOWN = {
    "mse": "the best that does not adapt (closed form)",
    "accuracy": "the nearest mean support image, nothing learned",
}


class Sinusoid(BaseModel):
    """Waves to be continued from a few points."""

    model_config = STRICT
    kind: Literal["sinusoid"] = "sinusoid"
    shots: PositiveInt = 10
    queries: PositiveInt = 10
    judged_queries: PositiveInt = 100


class Digits(BaseModel):
    """Digits, turned by quarters, to be told apart from a few images of each."""

    model_config = STRICT
    kind: Literal["digits"] = "digits"
    ways: Annotated[int, Field(ge=2)] = 5
    shots: PositiveInt = 5  # of each of the ways, as are the queries
    queries: PositiveInt = 10
    judged_queries: PositiveInt = 15
    held_out: tuple[Annotated[int, Field(ge=0, le=9)], ...] = (3, 4, 7)  # seen by no training task

    @model_validator(mode="after")
    def _parts_do_not_overlap(self) -> Digits:
        if (6 in self.held_out) != (9 in self.held_out):
            raise ValueError(
                "`held_out` must have both of 6 and 9 or neither: turned, they are one"
            )
        fewest = min(len(set(self.held_out)), 10 - len(set(self.held_out)))
        if self.ways > 4 * fewest:
            raise ValueError(
                f"`ways` must be at most 4 turns of the {fewest} digits of the smaller part: "
                f"got {self.ways}; change `held_out` or ask for fewer"
            )
        return self


class Layer(NamedTuple):
    """The connections into a layer of rectified units; the last one's are linear."""

    weights: jax.Array  # [inputs, outputs]
    bias: jax.Array  # [outputs]


Theta = tuple[Layer, ...]
Fit = Callable[[jax.Array, jax.Array], jax.Array]  # (predictions, targets) -> []


Draw = Callable[[jax.Array, dict[str, jax.Array]], Task]  # (key, data) -> task


class Family(NamedTuple):
    """Tasks to draw and how to judge them."""

    sizes: tuple[int, int]  # of what a network takes and gives
    data: dict[str, jax.Array]  # what tasks are drawn from
    training: Draw
    held_out: Draw
    loss: Fit
    measure: str
    score: Fit


def squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Its mean."""
    return jnp.mean((predictions - targets) ** 2)


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Its mean."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets))


def accuracy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The part whose largest logit is the right one."""
    return jnp.mean(jnp.argmax(logits, axis=1) == targets)


def family_of(problem: Sinusoid | Digits) -> Family:
    """The tasks of a problem."""
    if isinstance(problem, Sinusoid):
        return Family((1, 1), *_waves(problem), squared_error, "mse", squared_error)
    return Family((64, problem.ways), *_digits(problem), cross_entropy, "accuracy", accuracy)


def _waves(problem: Sinusoid) -> tuple[dict[str, jax.Array], Draw, Draw]:
    def drawing(queries: int) -> Draw:
        def draw(key: jax.Array, _: dict[str, jax.Array]) -> Task:
            wave_key, point_key = jax.random.split(key)
            wave = few_shot.random_wave(wave_key)
            return few_shot.wave_task(point_key, wave, problem.shots, queries)

        return draw

    return {}, drawing(problem.queries), drawing(problem.judged_queries)


def _digits(problem: Digits) -> tuple[dict[str, jax.Array], Draw, Draw]:
    held_out = sorted(set(problem.held_out))
    classes = {
        "training": [digit for digit in range(10) if digit not in held_out],
        "held_out": held_out,
    }

    def drawing(part: str, queries: int) -> Draw:
        ways, shots = problem.ways, problem.shots
        return lambda key, data: few_shot.class_task(key, data[part], ways, shots, queries)

    digits = tk.data.digits()
    return (
        {part: few_shot.by_class(digits, own) for part, own in classes.items()},
        drawing("training", problem.queries),
        drawing("held_out", problem.judged_queries),
    )


def drawn(draw: Draw, key: jax.Array, count: int, data: dict[str, jax.Array]) -> Task:
    """`count` tasks, stacked."""
    return jax.vmap(draw, (0, None))(jax.random.split(key, count), data)


def known_score(problem: Sinusoid | Digits, tasks: Task) -> float:
    """What needs no learned start: the best prediction for all waves, or comparing with mean images."""
    if isinstance(problem, Sinusoid):
        return few_shot.unadapted_wave_mse()
    ways = problem.ways
    right = jax.vmap(lambda task: few_shot.nearest_mean(task, ways) == task.query.targets)(tasks)
    return float(jnp.mean(right))


def random_network(key: jax.Array, sizes: Sequence[int]) -> Theta:
    """Gaussian weights of variance 1 / inputs, zero biases."""
    pairs = list(pairwise(sizes))
    keys = jax.random.split(key, len(pairs))
    return tuple(
        Layer(jax.random.normal(key, pair) / pair[0] ** 0.5, jnp.zeros(pair[1]))
        for key, pair in zip(keys, pairs, strict=True)
    )


def predict(theta: Theta, inputs: jax.Array) -> jax.Array:
    """[B, outputs] for inputs [B, F]."""
    for layer in theta[:-1]:
        inputs = jax.nn.relu(inputs @ layer.weights + layer.bias)
    return inputs @ theta[-1].weights + theta[-1].bias


def displaced(theta: Theta, delta: Theta) -> Theta:
    """`theta` with `delta` added to its last layers."""
    kept = len(theta) - len(delta)
    return (*theta[:kept], *jax.tree.map(jnp.add, theta[kept:], delta))


def misfit(fit: Fit, theta: Theta, delta: Theta, examples: Examples) -> jax.Array:
    """Loss or score of a displaced start."""
    return fit(predict(displaced(theta, delta), examples.inputs), examples.targets)


class Judged(NamedTuple):
    """What was measured of starts on held-out tasks; without the leading axis, of one task."""

    scores: jax.Array  # [tasks, judged_steps + 1] after 0, 1, ... steps of the same descent
    own: jax.Array  # [tasks] after the method's own adaptation
    predictions: jax.Array  # [tasks, judged_steps + 1, B, outputs] of the queries


def standard_error(scores: np.ndarray) -> np.ndarray:
    """Of the mean over tasks, the leading axis."""
    return np.std(scores, axis=0, ddof=1) / len(scores) ** 0.5


def summary(
    measure: str, known: float, judged: dict[str, Judged], last: int
) -> tuple[dict[str, float], tuple[tuple[str, str], ...]]:
    """(metrics, rows of the table); the first start is the one that the others are compared with."""
    first = next(iter(judged))
    metrics = {f"{measure}_known": known}
    for name, (scores, own, _) in judged.items():
        after = {1: scores[:, 1], last: scores[:, last], "own": own}
        metrics |= {f"{measure}_{k}/{name}": float(np.mean(each)) for k, each in after.items()}
    if measure == "mse":
        one_step = metrics[f"mse_1/{first}"]
        metrics["ratio_start"] = one_step / float(np.mean(judged[first].scores[:, 0]))
        metrics["ratio_known"] = one_step / known
    # Descent may diverge from a start that was not learned for its step size: a result, not a failure.
    metrics = {key: value for key, value in metrics.items() if np.isfinite(value)}
    rows = [(name, words_of(values, judged[first])) for name, values in judged.items()]
    return metrics, (*rows, (KNOWN[measure], f"{known:.3f}"))


def words_of(judged: Judged, reference: Judged) -> str:
    """A line of the table; differences to the reference are task by task."""
    means, own = np.mean(judged.scores, axis=0), np.mean(judged.own)
    gaps = judged.scores - reference.scores
    gap, error = np.mean(gaps, axis=0), standard_error(gaps)
    cells = [
        f"after {k}: {means[k]:.3f} ({gap[k]:+.3f} +- {error[k]:.3f})"
        for k in (0, 1, len(means) - 1)
    ]
    return "  ".join([*cells, f"by its own: {own:.3f}"])


def named(theta: Theta) -> dict[str, dict[str, jax.Array]]:
    """The layers as nested dicts, which a file can hold."""
    return {f"layer{number}": layer._asdict() for number, layer in enumerate(theta, 1)}
