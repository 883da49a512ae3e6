"""The mean of each stochastic inverse, by enumeration of its batches."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.bilevel.methods import quadratic as q
from toolkit.bilevel.parts import stochastic_inverse

ETA = 0.2
B, V0 = np.asarray([0.4, -1.1]), np.asarray([0.2, 0.5])


@pytest.mark.parametrize("kind", ["sum", "sample", "descend"])
def test_the_mean_of_a_stochastic_inverse_is_the_truncated_series(kind: str) -> None:
    """Exactly, by enumeration of all sequences of three batches of one example, and of all lengths."""
    Q, A = 3, jnp.asarray(q.INNER["A"])
    product = lambda i, w: A[i] @ w  # the key is the example
    sequences = jnp.asarray(list(itertools.product(range(q.I), repeat=Q)))
    series = {
        "sum": lambda keys: stochastic_inverse.neumann_sum(product, B, ETA, keys),
        "sample": lambda keys: sum(
            stochastic_inverse.neumann_sample(product, jnp.asarray(B), ETA, length, keys) / Q
            for length in range(Q)
        ),
        "descend": lambda keys: stochastic_inverse.descend(product, B, jnp.asarray(V0), ETA, keys),
    }
    mean = np.mean(jax.jit(jax.vmap(series[kind]))(sequences), axis=0)
    P = np.eye(q.N) - ETA * q.MEAN["A"]
    expected = {
        "sum": q.truncated(ETA, Q + 1) @ B,
        "sample": q.truncated(ETA, Q) @ B,
        "descend": np.linalg.matrix_power(P, Q) @ V0 + q.truncated(ETA, Q) @ B,
    }
    np.testing.assert_allclose(mean, expected[kind], atol=1e-12)
