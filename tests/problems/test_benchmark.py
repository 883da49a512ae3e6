"""The benchmark's problems: their formulas, their known answers, and that a method arrives there."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toolkit as tk
from tests import held_arrays
from toolkit.problems import cleaning, quadratic, regularisation


def test_the_quadratic_is_solved_by_its_closed_form() -> None:
    """The gradient and value of F by implicit differentiation of the losses themselves, at x0 and at x*."""
    instance = quadratic.quadratic(jax.random.key(0), 60, 50, 8, 5)
    means = quadratic._mean(instance.inner_data), quadratic._mean(instance.outer_data)
    best = quadratic.solve(*means)
    newton = tk.solver.Newton(3, 1e-12)
    solve = tk.argmin(lambda y, x: instance.inner(y, x, instance.inner_data), newton)
    outer = lambda y, x: instance.outer(y, x, instance.outer_data)
    hg = jax.jit(tk.hypergradient(outer, solve))
    at_best, at_start = hg(instance.y0, jnp.asarray(best.x)), hg(instance.y0, instance.theta0)
    np.testing.assert_allclose(at_best.gradient, 0, atol=1e-12)
    np.testing.assert_allclose(at_best.solution.value, best.y, rtol=1e-9)
    np.testing.assert_allclose(at_best.value, best.value, rtol=1e-10)
    measured = instance.measure(instance.y0, instance.theta0)
    np.testing.assert_allclose(measured["suboptimality"], at_start.value - best.value, rtol=1e-9)
    squared = float(at_start.gradient @ at_start.gradient)
    np.testing.assert_allclose(measured["gradient_norm"], squared, rtol=1e-9)
    distance = np.sum((at_start.solution.value - instance.y0) ** 2)
    np.testing.assert_allclose(measured["inner_distance"], distance, rtol=1e-9)
    # What it looks into may be an argument of a program, which then holds none of it.
    point = instance.y0, instance.theta0, instance.known
    again = jax.jit(instance.measure)(*point)
    np.testing.assert_allclose(again["suboptimality"], measured["suboptimality"], rtol=1e-12)
    assert held_arrays.largest(jax.make_jaxpr(instance.measure)(*point)) < 64
    assert held_arrays.largest(jax.make_jaxpr(instance.measure)(*point[:2])) > 64


def test_the_spectrum_of_the_quadratic_is_that_asked_for() -> None:
    """Sample means of 20,000 examples: within 10 % of the ends of the range."""
    instance = quadratic.quadratic(jax.random.key(1), 20_000, 100, 6, 4, mu=0.1, largest=1.0)
    mean = quadratic._mean(instance.inner_data)
    values = np.linalg.eigvalsh(mean.H)
    # An eigenvalue of a sample mean has a standard error of sqrt(2 / 20,000), 1 %; the cross terms, more.
    np.testing.assert_allclose(values, np.logspace(-1, 0, 6), rtol=0.05)
    assert np.linalg.eigvalsh(mean.K)[0] < 1e-12  # one flat direction
    singular = np.linalg.svd(mean.C, compute_uv=False)
    np.testing.assert_allclose(singular, 0.1, rtol=0.05)  # from mu to largest_cross, both 0.1
    for e in range(3):  # a single example has rank one
        h = np.asarray(instance.inner_data.h[e])
        hessian = jax.hessian(instance.inner)(
            instance.y0,
            instance.theta0,
            jax.tree.map(lambda leaf, e=e: leaf[e : e + 1], instance.inner_data),
        )
        np.testing.assert_allclose(hessian, np.outer(h, h), atol=1e-12)


def test_soba_on_the_whole_data_arrives_at_the_quadratic_s_minimiser() -> None:
    instance = quadratic.quadratic(jax.random.key(0), 60, 50, 8, 5)
    init, step = tk.bilevel.SOBA(0.5, 0.3)(tk.bilevel.Problem(*instance.losses_and_data))
    state = init(jax.random.key(0), instance.y0, instance.theta0)
    state = jax.jit(lambda s: jax.lax.fori_loop(0, 5000, lambda _, s: step(s)[0], s))(state)
    measured = instance.measure(state.y, state.theta)
    assert measured["suboptimality"] < 1e-18
    assert measured["inner_distance"] < 1e-18


def _two_classes() -> tuple[Any, Any]:
    train, validation, _ = tk.data.split(jax.random.key(0), tk.data.breast_cancer(), 200, 150)
    return tk.data.standardize(train, validation)


def test_logistic_regularisation_is_the_benchmark_s_formula() -> None:
    train, validation = _two_classes()
    instance = regularisation.logistic(jax.random.key(3), train, validation)
    y, x = np.asarray(instance.y0), np.asarray(instance.theta0)
    scores, labels = np.asarray(train.images) @ y, np.asarray(train.labels)
    each = np.log1p(np.exp(-(2.0 * labels - 1) * scores))
    expected = each.mean() + (np.exp(x) * y**2).sum() / 2
    np.testing.assert_allclose(instance.inner(y, x, train), expected, rtol=1e-10)
    measured = instance.measure(instance.y0, instance.theta0)
    solve = tk.argmin(lambda y, x: instance.inner(y, x, train), tk.solver.Newton(50, 1e-10))
    value = jax.jit(lambda x: instance.outer(solve(instance.y0, x).value, x, validation))
    np.testing.assert_allclose(measured["value"], value(x), rtol=1e-8)
    h, slopes = 1e-5, []
    for e in np.eye(len(x))[:3]:
        slopes.append((value(x + h * e) - value(x - h * e)) / (2 * h))
    gradient = jax.jit(jax.grad(value))(jnp.asarray(x))
    np.testing.assert_allclose(gradient[:3], slopes, rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(measured["gradient_norm"], gradient @ gradient, rtol=1e-6)


def test_softmax_regularisation_is_the_benchmark_s_formula() -> None:
    train, validation, _ = tk.data.split(jax.random.key(0), tk.data.digits(), 100, 80)
    instance = regularisation.softmax(train, validation, 10)
    y = jax.random.normal(jax.random.key(1), instance.y0.shape)
    x = jax.random.normal(jax.random.key(2), (10,))
    scores = np.asarray(train.images) @ np.asarray(y)
    log_sum = np.log(np.exp(scores).sum(1))
    each = log_sum - scores[np.arange(100), np.asarray(train.labels)]
    expected = each.mean() + (np.exp(x) * (np.asarray(y) ** 2).sum(0)).sum() / 2
    np.testing.assert_allclose(instance.inner(y, x, train), expected, rtol=1e-6)
    assert float(instance.measure(instance.y0, instance.theta0)["inner_distance"]) > 0


def test_cleaning_is_the_benchmark_s_formula_and_its_batches_know_their_weights() -> None:
    parts = tk.data.split(jax.random.key(0), tk.data.digits(), 100, 80)
    instance = cleaning.cleaning(jax.random.key(1), *parts, corrupted=0.5, num_classes=10)
    data, y = instance.inner_data, jax.random.normal(jax.random.key(1), instance.y0.shape)
    x = jax.random.normal(jax.random.key(2), (100,))
    batch = jax.tree.map(lambda leaf: leaf[jnp.asarray([7, 3])], data)
    each = optax.softmax_cross_entropy_with_integer_labels(batch.images @ y, batch.labels)
    weights = 1 / (1 + np.exp(-np.asarray(x)[[7, 3]]))
    expected = np.mean(weights * np.asarray(each)) + 0.2 * np.sum(np.asarray(y) ** 2)
    np.testing.assert_allclose(instance.inner(y, x, batch), expected, rtol=1e-6)
    slope = jax.grad(instance.inner, 1)(y, x, batch)
    assert list(np.flatnonzero(slope)) == [3, 7]
    changed = np.mean(np.asarray(data.labels) != np.asarray(parts[0].labels))
    assert (
        abs(changed - 0.45) < 5 * (0.45 * 0.55 / 100) ** 0.5
    )  # 0.5 * 9 / 10, five standard errors


def test_bad_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="`inner_examples` and `outer_examples` must be at least"):
        quadratic.quadratic(jax.random.key(0), 5, 50, 8, 5)
    with pytest.raises(ValueError, match=r"none of 20 draws.*lower `largest_cross` \(got 50"):
        quadratic.quadratic(jax.random.key(0), 60, 50, 8, 5, largest_cross=50.0)
    parts = tk.data.split(jax.random.key(0), tk.data.digits(), 100, 80)
    with pytest.raises(ValueError, match=r"`train` must have labels 0 and 1"):
        regularisation.logistic(jax.random.key(0), *parts[:2])
    with pytest.raises(ValueError, match=r"`train` must have labels in \[0, 5\)"):
        regularisation.softmax(*parts[:2], 5)
    with pytest.raises(ValueError, match=r"`corrupted` must be in \[0, 1\]: got 1.5"):
        cleaning.cleaning(jax.random.key(0), *parts, corrupted=1.5, num_classes=10)
