"""The cells that `architecture_search` chooses from: their operations, their loss, and how one of them ranks."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import toolkit as tk
from toolkit.data import Labelled

NUM_CLASSES, SIDE, EDGES = 10, 8, 3
OPERATIONS = ("same", "blur", "across", "down", "size", "squash")
ARCHITECTURES = np.array(list(itertools.product(range(len(OPERATIONS)), repeat=EDGES)))


class Data(NamedTuple):
    """Three parts without a digit in common; stacked, each leaf is `[S, ...]`."""

    train: Labelled
    validation: Labelled
    test: Labelled


def shifted(x: jax.Array, down: int, right: int) -> jax.Array:
    """Images `[B, 8, 8]` moved by up to a pixel; blank comes in."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)))
    return padded[:, 1 - down : 1 - down + SIDE, 1 - right : 1 - right + SIDE]


def unit(x: jax.Array) -> jax.Array:
    """Each image over its root mean square; a blank one stays blank."""
    return x / jnp.sqrt(jnp.mean(x**2, axis=(1, 2), keepdims=True) + 1e-3)


def operations(x: jax.Array) -> jax.Array:
    """`[6, B, 8, 8]`, in the order of `OPERATIONS`, each of unit size, for images [B, 8, 8]."""
    moves = itertools.product((-1, 0, 1), repeat=2)
    outputs = (
        x,
        sum(shifted(x, *move) for move in moves) / 9,
        shifted(x, 0, -1) - shifted(x, 0, 1),
        shifted(x, -1, 0) - shifted(x, 1, 0),
        jnp.sqrt(x**2 + 0.01),
        jnp.tanh(2 * x),
    )
    return jnp.stack([unit(output) for output in outputs])


def cell(gates: jax.Array, images: jax.Array) -> jax.Array:
    """`[B, 128]` the two nodes, for gates [3, 6] that sum to 1 on each edge and images [B, 64]."""
    x = images.reshape(-1, SIDE, SIDE)
    edge = lambda k, x: jnp.tensordot(gates[k], operations(x), axes=1)
    # Each node has unit size again. Otherwise a gate could make its node larger, the weights that read it
    # could be smaller, and `l2` would reward that instead of better images.
    first = unit(edge(0, x))
    second = unit(edge(1, x) + edge(2, first))
    return jnp.concatenate([first, second], axis=1).reshape(len(x), -1)


def scores(y: dict[str, jax.Array], gates: jax.Array, images: jax.Array) -> jax.Array:
    """`[B, 10]`."""
    return cell(gates, images) @ y["w"] + y["b"]


def loss(y: dict[str, jax.Array], gates: jax.Array, data: Labelled) -> jax.Array:
    """Mean cross-entropy."""
    logits = scores(y, gates, data.images)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, data.labels))


def penalised(y: dict[str, jax.Array], gates: jax.Array, data: Labelled, l2: float) -> jax.Array:
    """What training descends: `mean CE + l2 / 2 |y|^2`."""
    return loss(y, gates, data) + l2 / 2 * optax.tree.norm(y, squared=True)


def start() -> dict[str, jax.Array]:
    """All weights zero."""
    return {"w": jnp.zeros((2 * SIDE**2, NUM_CLASSES)), "b": jnp.zeros(NUM_CLASSES)}


def trained_from_scratch(solver: Any, l2: float, data: Data) -> dict[str, np.ndarray]:
    """Every architecture, trained to its one minimum on every draw; arrays `[216, S]`."""

    def one(gates: jax.Array, draw: Data) -> dict[str, jax.Array]:
        solve = tk.argmin(
            lambda y, gates: penalised(y, gates, draw.train, l2),
            solver,
            adjoint=tk.adjoint.Stopped(),
        )
        solution = solve(start(), gates)
        right = scores(solution.value, gates, draw.test.images).argmax(axis=1) == draw.test.labels
        return {
            "validation_loss": loss(solution.value, gates, draw.validation),
            "test_loss": loss(solution.value, gates, draw.test),
            "test_accuracy": jnp.mean(right),
            "status": solution.info.status,
        }

    over_draws = jax.vmap(one, in_axes=(None, 0))
    gates = jax.nn.one_hot(ARCHITECTURES, len(OPERATIONS))
    found = jax.jit(lambda gates: jax.lax.map(lambda g: over_draws(g, data), gates))(gates)
    return {name: np.asarray(values) for name, values in found.items()}


def kept(theta: jax.Array) -> np.ndarray:
    """[S] indices into `ARCHITECTURES` of the strongest operations, for theta [S, 3, 6]."""
    strongest = np.argmax(np.asarray(theta), axis=-1)
    return np.ravel_multi_index(tuple(strongest.T), (len(OPERATIONS),) * EDGES)


def judged(name: str, chosen: np.ndarray, all_of: dict[str, np.ndarray]) -> dict[str, float]:
    """What the chosen architectures came to, mean over the draws."""
    draws = np.arange(len(chosen))
    mine = {measure: values[chosen, draws] for measure, values in all_of.items()}
    accuracies, losses = all_of["test_accuracy"], all_of["test_loss"]
    worse = np.sum(accuracies < mine["test_accuracy"], axis=0)
    ties = np.sum(accuracies == mine["test_accuracy"], axis=0) - 1
    others = len(accuracies) - 1
    gain = mine["test_accuracy"] - accuracies.mean(axis=0)
    measured = {
        "accuracy": mine["test_accuracy"].mean(),
        "gain": gain.mean(),
        "gain_std": gain.std(ddof=1),
        # The part of the other architectures that is worse. Ties count half, so a random one has 1/2.
        "better_than": np.mean((worse + ties / 2) / others),
        "less_loss_than": np.mean(np.sum(losses > mine["test_loss"], axis=0) / others),
        "rank": np.mean(1 + np.sum(all_of["validation_loss"] < mine["validation_loss"], axis=0)),
    }
    return {
        f"gain_{name}_std" if measure == "gain_std" else f"{measure}_{name}": float(value)
        for measure, value in measured.items()
    }


def words(metrics: dict[str, float], name: str) -> str:
    """What `judged` says, for a line of the table."""
    return (
        f"accuracy {metrics[f'accuracy_{name}']:.1%}, "
        f"{100 * metrics[f'gain_{name}']:+.1f} +- {100 * metrics[f'gain_{name}_std']:.1f} points  "
        f"test loss below {metrics[f'less_loss_than_{name}']:.0%} of the others'  "
        f"rank by validation loss {metrics[f'rank_{name}']:.0f}"
    )
