"""The noise and the means that all rules share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.estimator import Backprop, EvolutionStrategies, ForwardGradient
from toolkit.estimator.sampling import average, gaussian_like

KEY = jax.random.key(0)


def test_directions_are_independent_standard_normals() -> None:
    like = {"b": jnp.zeros(2, jnp.bfloat16), "c": jnp.zeros(2, complex), "f": jnp.zeros((1, 2))}
    drawn = jax.jit(jax.vmap(lambda key: gaussian_like(key, like)))(jax.random.split(KEY, 100_000))
    assert drawn["b"].dtype == jnp.bfloat16
    assert len(np.unique(np.asarray(drawn["b"], np.float32))) > 600  # drawn in bfloat16: about 250
    entries = np.concatenate(
        [
            np.asarray(part, np.float64).reshape(100_000, -1)
            for part in (drawn["b"], drawn["c"].real, drawn["c"].imag, drawn["f"])
        ],
        axis=1,
    )
    # Standard errors of mean and covariance: 1 / sqrt(1e5), times sqrt(2) on the diagonal.
    assert np.all(np.abs(entries.mean(0)) < 5 / np.sqrt(1e5))
    assert np.all(np.abs(np.cov(entries.T) - np.eye(8)) < 5 * np.sqrt(2 / 1e5))


def test_no_unknowns_are_no_obstacle() -> None:
    for rule in (Backprop(), ForwardGradient(), EvolutionStrategies(0.1, 2)):
        value, gradient = rule(lambda theta: 3.0)({"n": 1}, KEY)
        assert value == 3
        assert gradient == {"n": None}


def test_a_mean_over_thousands_does_not_stall_in_16_bits() -> None:
    ones = jnp.ones(4096, jnp.bfloat16)
    _, mean = average(lambda x: (None, x), ones, 4096, 1)
    assert mean == 1


def test_a_tree_is_one_draw() -> None:
    """Whatever its leaves: 60 draws take XLA ten times as long to compile."""
    theta = {f"layer {i}": jnp.ones((30 + i, 40)) for i in range(60)}
    assert str(jax.make_jaxpr(gaussian_like)(KEY, theta)).count("random_bits") == 1
