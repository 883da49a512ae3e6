"""Operations without a complex derivative are found wherever they stand, and only where a result needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from toolkit.jaxprs.analytic import unanalytic

Z = jnp.asarray([0.3 + 0.4j, -1.0 + 0.2j])


def scanned(z: jax.Array) -> Any:
    return jax.lax.scan(lambda carry, _: (jnp.conj(carry), None), z, length=2)[0]


def named(z: jax.Array) -> jax.Array:
    return jax.lax.sort(z)


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (jnp.tanh, []),
        (lambda z: z @ z / jnp.sum(jnp.exp(z)), []),
        (jax.nn.softplus, []),  # guarded by a maximum
        (jax.nn.logsumexp, []),
        (lambda z: (jnp.abs(z), z**2)[1], []),  # nothing needs it
        (lambda z: z * jnp.max(jnp.zeros(3)), []),  # real numbers have an order
        (jax.nn.relu, ["max in relu"]),
        (jnp.conj, ["conj"]),
        (lambda z: z * jnp.real(z) + jnp.imag(z), ["real", "imag"]),
        (lambda z: jnp.abs(z) + jnp.abs(z) ** 2, ["abs"]),  # each once
        (scanned, ["conj"]),
        (jax.jit(named), ["sort in named"]),
        (jnp.sort, ["sort"]),
        (lambda z: jax.lax.cond(jnp.array(True), jnp.sign, jnp.tanh, z), ["sign"]),
        (lambda z: jax.lax.reduce_max(z, (0,)), ["reduce_max"]),
    ],
)
def test_what_has_no_complex_derivative_is_found(function: Callable, found: list[str]) -> None:
    assert unanalytic(jax.make_jaxpr(function)(Z)) == found


def test_of_real_numbers_nothing_is_found() -> None:
    program = jax.make_jaxpr(lambda u: jax.nn.relu(u) + jnp.abs(u) + jnp.sort(u))(jnp.real(Z))
    assert unanalytic(program) == []
