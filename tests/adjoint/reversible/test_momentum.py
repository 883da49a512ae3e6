"""Multiplication by a momentum is a bijection, and stores no more than it must."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toolkit.adjoint.reversible import integer_grid, momentum

UNIT = 2.0**-34  # of a velocity at the scale 1


@pytest.mark.parametrize("value", [1.0, 0.999, 0.98, 0.9, 0.5, 0.123456, 1e-3, 0.0])
@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_products_are_undone_to_the_bit(value: float, spread: float) -> None:
    random = np.random.default_rng(1)
    steps, width = 400, 50
    momenta = np.clip(value * (1 + spread * random.uniform(-1, 1, steps)), 0, 1)
    kicks = jnp.asarray(random.normal(size=(steps, width)))
    plan = momentum.known_plan(momenta)
    most = int(max(plan.spills))
    start = integer_grid.to_grid(jnp.asarray(random.normal(size=width)) / UNIT)
    rows = momentum.no_rows(int(momentum.rows_used(plan)) + most, start)

    def forward(carry: tuple, entry: tuple) -> tuple:
        plan, kick = entry
        w, rows = momentum.spill(*carry, plan, most)
        product = integer_grid.to_float(w, kick.dtype) * (plan.scale * UNIT)
        return (
            integer_grid.add(w, integer_grid.to_grid(kick / (plan.scale * UNIT))),
            rows,
        ), product

    def backward(carry: tuple, entry: tuple) -> tuple:
        plan, kick = entry
        w, rows = carry
        w = integer_grid.subtract(w, integer_grid.to_grid(kick / (plan.scale * UNIT)))
        return (momentum.fetch(w, rows, plan, most), rows), None

    entries = (jax.tree.map(jnp.asarray, plan), kicks)
    last, products = jax.jit(lambda c: jax.lax.scan(forward, c, entries))((start, rows))
    first, _ = jax.jit(lambda c: jax.lax.scan(backward, c, entries, reverse=True)[0])(last)
    assert integer_grid.equal(first, start)

    v = np.asarray(integer_grid.to_float(start, jnp.float64)) * UNIT
    for t in range(steps):
        v = v * max(momenta[t], 2.0**-16)
        # Each earlier product and kick was rounded by a unit at most.
        np.testing.assert_allclose(products[t], v, atol=1e-7)
        v = v + np.asarray(kicks[t])


def test_memory_is_the_information_that_is_discarded() -> None:
    for momenta in (
        np.full(1000, 0.9),
        np.full(100, 0.5),
        np.full(50, 0.0),
        np.random.default_rng(2).uniform(0, 1, 300),
        np.clip(0.98 + 0.01 * np.sin(np.arange(5000)), 0, 0.999),
    ):
        with jax.enable_x64(False):  # whose rounding errors are the larger
            plan = momentum.known_plan(momenta)
        bits = np.cumsum(-np.log2(np.maximum(momenta, 2.0**-16)))
        used = 8 * (plan.row + plan.spills)
        # The next byte is not full yet; errors of rounding are 1e-3 bits here.
        assert (used <= bits + 1e-3).all() and (used > bits - 8 - 1e-3).all()
        assert (plan.scale > 1 / 256).all() and (plan.scale <= 1).all()
        assert (plan.spills <= momentum.SPILLS).all()
        np.testing.assert_allclose(np.log2(plan.scale), used - bits, atol=1e-3)


@pytest.mark.parametrize(("value", "steps"), [(0.5, 100), (0.9, 1000), (0.95, 2000), (0.98, 5000)])
def test_side_information_is_within_ten_percent_of_the_least(value: float, steps: int) -> None:
    bits = 8 * int(momentum.rows_used(momentum.known_plan(np.full(steps, value))))
    assert bits <= 1.1 * steps * math.log2(1 / value)
