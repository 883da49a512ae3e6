"""Node perturbation in networks: the chain rule across nodes, examples, loops, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.estimates import assert_mean, flat, many
from toolkit.estimator import NodePerturbation, unperturbed

COUNT = 40_000
KEY = jax.random.key(0)


def test_two_layers_in_closed_form() -> None:
    """`a = w x, b = v a^2, L = (b - y)^2 / 2`, with `A = a + sigma e_a` and `b + sigma e_b` noisy.

    E dL/db = v (a^2 + sigma^2) - y,    E dL/da = E (v A^2 - y) 2 v A = 2v [v (a^3 + 3 a sigma^2) - y a].
    """
    x, y, sigma = 0.7, 1.3, 0.4
    theta = {"v": jnp.asarray(-0.8), "w": jnp.asarray(1.5)}

    def loss(theta: Any, perturb: Callable) -> jax.Array:
        a = perturb("a", theta["w"] * x)
        return (perturb("b", theta["v"] * a**2) - y) ** 2 / 2

    _, gradients = many(NodePerturbation(sigma)(loss), theta, 4 * COUNT)
    v, a = -0.8, 1.5 * x
    by_b = v * (a**2 + sigma**2) - y
    by_a = 2 * v * (v * (a**3 + 3 * a * sigma**2) - y * a)
    assert_mean(gradients, [by_b * a**2, by_a * x])


INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)))
TARGETS = jnp.asarray(np.random.default_rng(1).normal(size=(8, 2)))
NETWORK = {
    "hidden": jnp.asarray(np.random.default_rng(2).normal(size=(3, 4))) / 2,
    "readout": jnp.asarray(np.random.default_rng(3).normal(size=(4, 2))),
}


def example_losses(theta: Any, perturb: Callable) -> jax.Array:
    hidden = jnp.tanh(perturb("hidden", INPUTS @ theta["hidden"]))
    return jnp.sum((perturb("output", hidden @ theta["readout"]) - TARGETS) ** 2, axis=1) / 2


def mean_loss(theta: Any, perturb: Callable) -> jax.Array:
    return jnp.mean(example_losses(theta, perturb))


def exact(loss: Callable, theta: Any) -> Any:
    return jax.grad(lambda t: jnp.mean(loss(t, unperturbed)))(theta)


def test_an_mlp_with_one_loss_an_example() -> None:
    """The same mean, and the value without noise; the variance is that of 8 times the samples."""
    rule = NodePerturbation(1e-3)
    values, each = many(rule(example_losses), NETWORK, COUNT // 4)
    _, together = many(rule(mean_loss), NETWORK, COUNT // 4)
    gradient = flat(exact(mean_loss, NETWORK))
    assert_mean(each, gradient, resolution=0.04)
    assert_mean(together, gradient, resolution=0.1)
    np.testing.assert_allclose(values, mean_loss(NETWORK, unperturbed), rtol=1e-14)
    ratio = np.mean((together - gradient) ** 2) / np.mean((each - gradient) ** 2)
    assert 5 < ratio < 11


def test_what_crosses_no_node_is_exact() -> None:
    """A readout behind the last node, and a penalty: no noise at all in their gradient."""

    def loss(theta: Any, perturb: Callable) -> jax.Array:
        hidden = jnp.tanh(perturb("hidden", INPUTS @ theta["hidden"]))
        return jnp.mean((hidden @ theta["readout"] - TARGETS) ** 2) + theta["penalty"] ** 2

    theta = {**NETWORK, "penalty": jnp.asarray(0.3)}
    gradient = NodePerturbation(0.1)(loss)(theta, KEY).gradient
    expected = exact(loss, theta)
    for leaf in ("readout", "penalty"):
        np.testing.assert_allclose(gradient[leaf], expected[leaf], rtol=1e-12)
    assert jnp.all(jnp.abs(gradient["hidden"] - expected["hidden"]) > 1e-6)


def test_nodes_in_a_loop() -> None:
    """A linear recurrent network: one node a step, told apart by `index`; exact as all is quadratic."""
    drive = jnp.asarray([0.5, -1.0, 0.8, 0.2])

    def loss(theta: Any, perturb: Callable) -> jax.Array:
        def step(h: jax.Array, t: jax.Array) -> tuple[jax.Array, None]:
            return perturb("h", theta["w"] * h + theta["u"] * drive[t], t), None

        h, _ = jax.lax.scan(step, jnp.asarray(0.3), jnp.arange(4))
        return (h - 1) ** 2 / 2

    theta = {"u": jnp.asarray(0.9), "w": jnp.asarray(0.6)}
    _, gradients = many(NodePerturbation(0.3)(loss), theta, 2 * COUNT)
    # Each node's own derivative is taken at the states without noise, so the mean is the gradient.
    assert_mean(gradients, flat(exact(loss, theta)))


def test_complex_nodes() -> None:
    m = jnp.asarray([[1.0 + 0.5j, -0.3j], [0.4, 0.8 - 0.2j]])

    def loss(theta: Any, perturb: Callable) -> jax.Array:
        return jnp.sum(jnp.abs(perturb("spectrum", m @ theta) - 1j) ** 2)

    theta = jnp.asarray([0.7 - 0.1j, 0.2 + 0.9j])
    _, gradients = many(NodePerturbation(0.3)(loss), theta, COUNT)
    assert_mean(gradients, flat(exact(loss, theta)))


def test_a_node_may_be_a_tree() -> None:
    def loss(theta: Any, perturb: Callable) -> jax.Array:
        left, right = perturb("both", (theta["a"] ** 2, 3 * theta["b"]))
        return jnp.sum(left) * right

    theta = {"a": jnp.asarray([1.0, 2.0]), "b": jnp.asarray(0.5)}
    _, gradients = many(NodePerturbation(0.2)(loss), theta, COUNT)
    assert_mean(gradients, flat(exact(loss, theta)))


def in_a_scan(theta: Any, perturb: Callable) -> jax.Array:
    return jax.lax.scan(lambda h, _: (perturb("h", theta * h), None), 1.0, None, 3)[0]


def in_jit(theta: Any, perturb: Callable) -> jax.Array:
    return jax.jit(lambda t: perturb("h", t))(theta)


def twice(theta: Any, perturb: Callable) -> jax.Array:
    return perturb("h", theta) * perturb("h", 2 * theta)


def same_index(theta: Any, perturb: Callable) -> jax.Array:
    return perturb("h", theta, 1) * perturb("h", 2 * theta, 1)


def not_examples(theta: Any, perturb: Callable) -> jax.Array:
    return perturb("h", theta * jnp.ones((5, 3)))[:3, 0]


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (in_a_scan, "pass `index`"),
        (in_jit, "pass `index`"),
        (twice, "two names"),
        (same_index, "two names"),
        (not_examples, "along its first axis"),
    ],
)
def test_noise_that_would_be_shared_is_refused(loss: Callable, match: str) -> None:
    for wrap in (lambda f: f, jax.jit):
        with pytest.raises(ValueError, match=match):
            wrap(NodePerturbation(0.1)(loss))(jnp.asarray(0.5), KEY)


def test_an_index_tells_nodes_apart() -> None:
    def python_loop(theta: Any, perturb: Callable) -> jax.Array:
        return sum(perturb("h", theta, t) * 1.0 for t in range(3))

    def inside_jit(theta: Any, perturb: Callable) -> jax.Array:
        return jax.jit(lambda t: perturb("h", t, 0))(theta) * 3

    for loss in (python_loop, inside_jit):
        _, gradients = many(NodePerturbation(0.2)(loss), jnp.asarray(0.5), COUNT)
        assert_mean(gradients, [3.0])
