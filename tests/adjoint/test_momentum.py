"""Multiplication by a rational momentum is a bijection, and stores little more than it must."""

from __future__ import annotations

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toolkit.adjoint import grid, momentum
from toolkit.adjoint.momentum import Plan, Stack


def test_simple_momenta_become_simple_fractions() -> None:
    simple = ["1/2", "9/10", "19/20", "49/50", "99/100", "1/5", "1/3", "1/1"]
    for dtype in (jnp.float32, jnp.float64):
        n, d = momentum.rational(jnp.asarray([float(Fraction(f)) for f in simple], dtype))
        assert [f"{a}/{b}" for a, b in zip(n.tolist(), d.tolist(), strict=True)] == simple
    n, d = momentum.rational(jnp.zeros(1))
    assert (int(n[0]), int(d[0])) == (1, momentum.LARGEST)


def test_fractions_are_near() -> None:
    random = np.random.default_rng(0)
    near_simple = [0.5, 1 / 3, 2 / 3, 0.75, 0.9, 1.0] - 10.0 ** -random.uniform(4, 8, (50, 1))
    m = np.concatenate([random.uniform(0, 1, 2000), near_simple.ravel(), 0.1 ** np.arange(9)])
    n, d = (np.asarray(x, np.float64) for x in jax.jit(momentum.rational)(jnp.asarray(m)))
    assert (n >= 1).all() and (n <= d).all() and (d <= momentum.LARGEST).all()
    errors = np.abs(n / d - m)
    assert np.median(errors) < 2.0**-25
    # What a gap beside a fraction of small denominator costs.
    assert errors.max() <= 2.0**-16


@pytest.mark.parametrize("value", [0.5, 0.9, 0.98, 0.999, 0.123456, 0.0])
@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_products_are_undone_to_the_bit(value: float, spread: float) -> None:
    random = np.random.default_rng(1)
    steps, width = 400, 50
    momenta = np.clip(value * (1 + spread * random.uniform(-1, 1, steps)), 0, 1)
    kicks = jnp.asarray(random.normal(size=(steps, width)))
    plan = momentum.known_plan(momenta)
    start, _ = grid.to_grid(jnp.asarray(random.normal(size=width)))
    top = jnp.zeros(width, jnp.uint32)
    rows = jnp.zeros((int(momentum.rows_used(plan)) + 1, width), jnp.uint8)

    def forward(carry: tuple, entry: tuple) -> tuple:
        v, stack = momentum.multiply(*carry, entry[0])
        return (grid.add(v, grid.to_grid(entry[1])[0]), stack), grid.to_float(v, jnp.float64)

    def backward(carry: tuple, entry: tuple) -> tuple:
        v = grid.subtract(carry[0], grid.to_grid(entry[1])[0])
        return momentum.unmultiply(v, carry[1], entry[0]), None

    entries = (jax.tree.map(jnp.asarray, plan), kicks)
    run = jax.jit(lambda c: jax.lax.scan(forward, c, entries))
    last, products = run((start, Stack(top, rows)))
    first, stack = jax.jit(lambda c: jax.lax.scan(backward, c, entries, reverse=True)[0])(last)
    assert grid.equal(first, start)
    assert not stack.top.any()

    v = np.asarray(grid.to_float(start, jnp.float64))
    for t in range(steps):
        v = v * (int(plan.numerator[t]) / int(plan.denominator[t]))
        # A product is off by up to `n` units of 2^-40.
        np.testing.assert_allclose(products[t], v, atol=1e-6)
        v = v + np.asarray(kicks[t])


@pytest.mark.parametrize(("value", "steps"), [(0.5, 100), (0.9, 1000), (0.95, 2000), (0.98, 5000)])
def test_side_information_is_within_ten_percent_of_the_least(value: float, steps: int) -> None:
    bits = 8 * int(momentum.rows_used(momentum.known_plan(np.full(steps, value)))) + 32
    assert bits <= 1.1 * steps * math.log2(1 / value)
    # Momenta that are no simple fractions: the memory stays within it, the top is a word more.
    learned = np.clip(value + 0.01 * np.sin(np.arange(steps)), 0, 0.999)
    bits = 8 * int(momentum.rows_used(momentum.known_plan(learned)))
    assert bits <= 1.1 * np.sum(np.log2(1 / learned))


def test_plan_bounds_the_top_exactly() -> None:
    """Python's integers, which cannot overflow, as the top that is as large as it can be."""
    momenta = np.random.default_rng(2).uniform(0, 1, 300)
    plan = momentum.known_plan(momenta)
    largest = 0
    for n, d, spills, _ in zip(*(leaf.tolist() for leaf in Plan(*plan)), strict=True):
        largest = ((largest >> 8 * spills) * d + d - 1) // n
        assert largest < 2**32
