"""The laws of a loss's derivative rules: each estimates the gradient it says, with the noise it says.

The loss is a quadratic plus a cubic, so that smoothing it with `N(0, sigma^2)` is not for nothing:

    L(x) = x.H x / 2 + b.x + sum_i c_i x_i^3
    E L(x + sigma e) = L(x) + sigma^2 (tr H / 2 + 3 c.x),    its gradient Hx + b + 3 c (x^2 + sigma^2)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toolkit as tk
from tests.estimates import assert_mean, assert_total_variance, flat, many
from toolkit import tree
from toolkit.estimator import (
    Backprop,
    EvolutionStrategies,
    ForwardGradient,
    NodePerturbation,
    evolution_strategies,
    forward_gradient,
    node_perturbation,
    unperturbed,
)

SIGMA = 0.5
H = np.array([[2.0, 0.3, -0.5], [0.3, 1.0, 0.2], [-0.5, 0.2, 1.5]])
B = np.array([0.5, -1.0, 0.7])
C = np.array([0.3, -0.2, 0.4])
X = np.array([0.8, -0.6, 1.1])
THETA = {"a": jnp.asarray(X[:2]), "b": jnp.asarray(X[2])}
COUNT = 40_000


class Rule(NamedTuple):
    """An estimator with what it promises."""

    make: Callable  # (num_samples, batch) -> estimator
    sigma: float  # of the smoothing that its gradient has; 0 is the exact gradient
    smooth_value: bool  # whether its value is smoothed too
    module: Any  # where it draws its noise


RULES = {
    "backprop": Rule(lambda n, batch=None: Backprop(), 0, False, None),
    "forward gradient": Rule(ForwardGradient, 0, False, forward_gradient),
    "evolution strategies": Rule(
        lambda n, batch=None: EvolutionStrategies(SIGMA, n, batch),
        SIGMA,
        True,
        evolution_strategies,
    ),
    "node perturbation": Rule(
        lambda n, batch=None: NodePerturbation(SIGMA, n, batch), SIGMA, False, node_perturbation
    ),
}
RANDOM = [name for name in RULES if name != "backprop"]
rules = pytest.mark.parametrize("name", RULES)
random_rules = pytest.mark.parametrize("name", RANDOM)


def quadratic(theta: Any) -> jax.Array:
    x = flat(theta)
    return x @ H @ x / 2 + B @ x


def cubic(theta: Any) -> jax.Array:
    return quadratic(theta) + C @ flat(theta) ** 3


def estimator_of(name: str, loss: Callable, num_samples: int = 1, batch: Any = None) -> Callable:
    """The rule on a loss; for node perturbation `theta`'s arrays are the nodes."""
    rule = RULES[name].make(num_samples, batch)
    if not isinstance(rule, NodePerturbation):
        return rule(loss)

    def with_nodes(theta: Any, perturb: Callable) -> jax.Array:
        parts = tree.split(theta)
        nodes = perturb("theta", parts.inexact)
        return loss(tree.merge(nodes, parts.arrays, parts.static))

    return rule(with_nodes)


@functools.cache
def samples_of_cubic(name: str) -> tuple[Any, Any]:
    """Values and gradients of the law's loss, one sample an estimate."""
    return many(estimator_of(name, cubic), THETA, COUNT)


def smoothed_gradient(name: str) -> np.ndarray:
    return H @ X + B + 3 * C * (X**2 + RULES[name].sigma ** 2)


@rules
def test_the_mean_is_the_gradient_of_the_smoothed_loss(name: str) -> None:
    values, gradients = samples_of_cubic(name)
    assert_mean(gradients, smoothed_gradient(name))
    smoothing = SIGMA**2 * (np.trace(H) / 2 + 3 * C @ X) if RULES[name].smooth_value else 0
    assert_mean(values[:, None], [cubic(THETA) + smoothing])


@pytest.mark.parametrize("name", [name for name in RULES if RULES[name].sigma])
def test_smoothing_is_seen(name: str) -> None:
    """The cubic's exact gradient is refused where the rule smooths, so the law above has power."""
    _, gradients = samples_of_cubic(name)
    with pytest.raises(AssertionError, match="mean"):
        assert_mean(gradients, jax.grad(lambda x: cubic(x))(jnp.asarray(X)))


SABOTAGE = {
    "wrong sign": lambda g: -g,
    "a tenth too large": lambda g: 1.1 * g,
    "one entry lost": lambda g: g.at[:, 1].set(0),
    "entries exchanged": lambda g: g[:, ::-1],
}


@rules
@pytest.mark.parametrize("how", SABOTAGE)
def test_a_sabotaged_estimate_is_refused(name: str, how: str) -> None:
    _, gradients = samples_of_cubic(name)
    with pytest.raises(AssertionError, match="mean"):
        assert_mean(SABOTAGE[how](gradients), smoothed_gradient(name))


@random_rules
def test_noise_of_another_variance_is_refused(name: str, monkeypatch: Any) -> None:
    module = RULES[name].module
    drawn = module.gaussian_like
    monkeypatch.setattr(
        module, "gaussian_like", lambda k, x: jax.tree.map(lambda e: 1.1 * e, drawn(k, x))
    )
    _, gradients = many(estimator_of(name, cubic), THETA, COUNT)
    with pytest.raises(AssertionError, match="mean"):
        assert_mean(gradients, smoothed_gradient(name))


@random_rules
def test_the_variance_on_a_quadratic(name: str) -> None:
    """`(D + 1) |g|^2 / n`: `E |v|^2 (v.g)^2 = (D + 2) |g|^2` for `v ~ N(0, I)`.

    The one-sided differences of node perturbation add `sigma^2 / 4 E |e|^2 (e.H e)^2`, in which
    `E |e|^2 (e.H e)^2 = (D + 4) (tr(H)^2 + 2 tr(H^2))` (Isserlis).
    """
    dimension, gradient = len(X), H @ X + B
    expected = (dimension + 1) * gradient @ gradient
    if name == "node perturbation":
        fourth = np.trace(H) ** 2 + 2 * np.trace(H @ H)
        expected += SIGMA**2 / 4 * (dimension + 4) * fourth
    num_samples = 2
    _, gradients = many(estimator_of(name, quadratic, num_samples), THETA, 2 * COUNT)
    assert_total_variance(gradients, gradient, expected / num_samples)
    with pytest.raises(AssertionError, match="mean"):
        assert_total_variance(gradients, gradient, 1.2 * expected / num_samples)


Z = jnp.asarray([0.4 - 0.8j, -0.9 + 0.3j])
_random = np.random.default_rng(3)
M = _random.normal(size=(3, 2)) + 1j * _random.normal(size=(3, 2))


def complex_quadratic(theta: Any) -> jax.Array:
    return jnp.sum(jnp.abs(M @ theta["z"] - theta["r"]) ** 2)


@rules
def test_complex_leaves_follow_the_convention_of_jax(name: str) -> None:
    theta = {"r": jnp.asarray(0.7), "z": Z}
    _, gradients = many(estimator_of(name, complex_quadratic), theta, COUNT)
    exact = jax.grad(complex_quadratic)(theta)
    assert_mean(gradients, flat(exact))
    if name != "backprop":
        with pytest.raises(AssertionError, match="mean"):
            assert_mean(gradients, flat(tree.conj(exact)))


@rules
def test_odd_leaves_are_carried(name: str) -> None:
    theta = {
        "w": jnp.asarray([0.5, -1.0]),
        "count": jnp.arange(3),
        "flag": True,
        "key": jax.random.key(0),
        "name": "ridge",
        "none": None,
        "number": 0.3,
    }

    def loss(seen: Any) -> jax.Array:
        assert seen["name"] == "ridge"
        assert seen["none"] is None
        noise = jax.random.normal(seen["key"], (2,))
        scale = jnp.where(seen["flag"], seen["count"][2], 0)
        return jnp.sum((scale * seen["w"] - noise) ** 2) + seen["number"] ** 2

    _, gradient = estimator_of(name, loss)(theta, jax.random.key(1))
    assert {leaf for leaf, g in gradient.items() if g is not None} == {"w", "number"}
    floats = {leaf: jnp.asarray(theta[leaf]) for leaf in ("w", "number")}
    updated = optax.apply_updates(floats, {leaf: gradient[leaf] for leaf in floats})
    assert jnp.all(updated["w"] != theta["w"])
    _, gradients = many(estimator_of(name, loss), theta, COUNT)
    noise = jax.random.normal(theta["key"], (2,))
    assert_mean(gradients, [0.6, *(4 * (2 * theta["w"] - noise))])


@rules
def test_low_precision_leaves_keep_their_types(name: str) -> None:
    theta = {"h": jnp.ones(3, jnp.bfloat16), "f": jnp.ones(2, jnp.float32)}
    loss = lambda t: jnp.sum(t["h"].astype(jnp.float32) ** 2) + jnp.sum(t["f"] ** 2)
    value, gradient = jax.eval_shape(estimator_of(name, loss, 64, 2), theta, jax.random.key(0))
    assert value.dtype == jnp.float32
    assert gradient["h"].dtype == jnp.bfloat16
    assert gradient["f"].dtype == jnp.float32


@rules
def test_the_same_key_gives_the_same_bits(name: str) -> None:
    estimate = jax.jit(estimator_of(name, cubic, 4))
    first, again, other = (estimate(THETA, jax.random.key(seed)) for seed in (0, 0, 1))
    assert all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(again)))
    same = np.array_equal(flat(first.gradient), flat(other.gradient))
    assert same == (name == "backprop")


@pytest.mark.parametrize("name", [name for name in RULES if not RULES[name].smooth_value])
def test_the_value_is_the_loss_to_the_bit(name: str) -> None:
    value, _ = jax.jit(estimator_of(name, cubic, 6, 2))(THETA, jax.random.key(0))
    assert value == jax.jit(cubic)(THETA)


@rules
def test_neither_jit_nor_vmap_nor_a_batch_changes_the_noise(name: str) -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    thetas = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), THETA)
    batched = jax.jit(jax.vmap(estimator_of(name, cubic, 6, 2)))(thetas, keys)
    alone = estimator_of(name, cubic, 6)(THETA, keys[0])
    got = jax.tree.map(lambda leaf: leaf[0], batched)
    np.testing.assert_allclose(flat(got), flat(alone), rtol=1e-10)
    assert jnp.all(flat(got) != flat(jax.tree.map(lambda leaf: leaf[1], batched)))


def temporary_bytes(fun: Callable, *args: Any) -> int:
    return jax.jit(fun).lower(*args).compile().memory_analysis().temp_size_in_bytes


@random_rules
def test_a_batch_bounds_the_memory(name: str) -> None:
    theta, key = jnp.ones(20_000), jax.random.key(0)
    loss = lambda x: jnp.sum(jnp.sin(x) ** 2)
    whole = temporary_bytes(estimator_of(name, loss, 64), theta, key)
    one = temporary_bytes(estimator_of(name, loss, 64, 1), theta, key)
    assert one < whole / 5


def test_forward_rules_keep_no_history() -> None:
    """1,000 steps: the forward rules take a tenth of the memory of backprop, or less."""

    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum(jax.lax.fori_loop(0, 1000, lambda t, y: jnp.sin(y) + 0.1 * x, x))

    theta, key = jnp.ones(1000), jax.random.key(0)
    history = temporary_bytes(Backprop()(loss), theta, key)
    assert history > 1000 * 1000 * 8 * 0.9
    assert temporary_bytes(ForwardGradient()(loss), theta, key) < history / 10
    assert temporary_bytes(EvolutionStrategies(0.1, 1)(loss), theta, key) < history / 10


@random_rules
def test_a_hypergradient_without_reverse_mode(name: str) -> None:
    """The loss may hold a solve: a ridge regression's penalty, chosen by its validation loss."""
    inner = lambda y, theta: (y - 2.0) ** 2 / 2 + jnp.exp(theta) * y**2 / 2
    solve = tk.argmin(
        inner, tk.solver.GradientDescent(0.3, 40), adjoint=tk.adjoint.Unroll(forward_mode=True)
    )
    outer = lambda theta: (solve(jnp.zeros(()), theta).value - 1.5) ** 2
    small = {
        "forward gradient": ForwardGradient(),
        "evolution strategies": EvolutionStrategies(1e-3, 1),
        "node perturbation": NodePerturbation(1e-3),
    }[name]
    loss = outer if name != "node perturbation" else lambda t, perturb: outer(perturb("theta", t))
    _, gradients = many(small(loss), jnp.asarray(-0.5), COUNT)
    y = 2 / (1 + np.exp(-0.5))
    # One-sided differences have a bias of order sigma^2 through smoothing: 1e-6 here, far below 1 %.
    assert_mean(gradients, [2 * (y - 1.5) * -np.exp(-0.5) * y / (1 + np.exp(-0.5))])


@rules
@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (lambda x: x["a"] * jnp.ones((2, 2)), "must return"),
        (lambda x: x["b"] * 1j, "must return"),
        (lambda x: jnp.int32(3), "must return"),
    ],
    ids=["matrix", "complex", "integer"],
)
def test_what_is_no_loss_is_refused(name: str, loss: Callable, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        estimator_of(name, loss)(THETA, jax.random.key(0))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ForwardGradient(0), "`num_directions` must be an int of at least 1"),
        (lambda: ForwardGradient(True), "`num_directions` must be an int of at least 1"),
        (lambda: ForwardGradient(6, 4), "`batch` must divide `num_directions`"),
        (lambda: EvolutionStrategies(0.0, 2), "`sigma` must be a positive"),
        (lambda: EvolutionStrategies(jnp.ones(3), 2), "`sigma` must be a positive"),
        (lambda: EvolutionStrategies(float("nan"), 2), "`sigma` must be a positive"),
        (lambda: EvolutionStrategies(0.1, 2.0), "`num_pairs` must be an int of at least 1"),
        (lambda: NodePerturbation(-1.0), "`sigma` must be a positive"),
        (lambda: NodePerturbation("0.1"), "`sigma` must be a positive"),
    ],
)
def test_settings_are_checked(make: Callable, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_settings_print_compare_and_hash() -> None:
    assert EvolutionStrategies(0.1, 4) == EvolutionStrategies(0.1, 4)
    assert len({ForwardGradient(), ForwardGradient(1), ForwardGradient(2)}) == 2
    assert repr(NodePerturbation(0.1)) == "NodePerturbation(sigma=0.1, num_samples=1, batch=None)"


def test_sigma_may_be_traced() -> None:
    """A schedule of `sigma` needs no recompilation, and draws the noise of the number."""

    @jax.jit
    def estimate(sigma: jax.Array) -> Any:
        return EvolutionStrategies(sigma, 3)(cubic)(THETA, jax.random.key(0))

    number = jax.jit(EvolutionStrategies(0.25, 3)(cubic))(THETA, jax.random.key(0))
    np.testing.assert_allclose(flat(estimate(0.25)), flat(number), rtol=1e-10)
    assert jnp.all(flat(estimate(0.5)) != flat(number))


def test_nodes_are_no_obstacle_to_the_other_rules() -> None:
    loss = lambda theta, perturb: cubic(perturb("theta", theta))
    value, gradient = Backprop()(lambda theta: loss(theta, unperturbed))(THETA, jax.random.key(0))
    assert value == cubic(THETA)
    np.testing.assert_allclose(flat(gradient), smoothed_gradient("backprop"), rtol=1e-12)
