"""Blocks of data: which examples each has, and how often all are looked at."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from tests.bilevel.methods import quadratic as q
from toolkit.bilevel import Problem
from toolkit.bilevel.parts import data_blocks


def test_a_block_of_another_size_is_the_rest_of_the_data() -> None:
    data = {"x": jnp.arange(5)}
    sums = [int(data_blocks.on_block(lambda b: jnp.sum(b["x"]), data, 2, i)) for i in jnp.arange(3)]
    assert sums == [0 + 1, 2 + 3, 4]
    assert int(data_blocks.on_block(lambda b: jnp.sum(b["x"]), data, None, 0)) == 10
    assert int(data_blocks.on_block(lambda b: jnp.sum(b["x"]), data, 9, 0)) == 10
    assert Problem(q.inner, q.outer).inner_data is None


def test_the_default_period_looks_at_half_of_the_batches() -> None:
    assert data_blocks.default_period(q.INNER, q.OUTER, None, 1) == 1
    data = {"x": np.zeros(100)}
    assert data_blocks.default_period(data, data, 10, 1) == 10
    assert data_blocks.default_period(data, data, 10, 4) == 2
    assert data_blocks.default_period(data, data, 90, 4) == 1
