"""`layered`: every form of a map, and what is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import toolkit as tk
from tests.networks import IMAGES, X, dense, mixed, network

KEY = jax.random.key(0)
C = tk.credit


def test_a_layer_is_maps_and_an_activation() -> None:
    model = network()
    params = model.init(KEY, X)
    assert [sorted(own) for own in params] == [["bias", "kernel"]] * 3
    h = X
    for k, own in enumerate(params):
        a = h @ own["kernel"] + own["bias"]
        np.testing.assert_allclose(model.layers[k].pre(own, h), a, rtol=1e-12)
        h = model.layers[k].activation(a)
    np.testing.assert_allclose(model.apply(params, X), h, rtol=1e-12)


def test_linen_nnx_constructors_and_functions_are_maps() -> None:
    model = mixed()
    params = jax.jit(model.init)(KEY, IMAGES)
    assert sorted(params[0]) == ["bias", "kernel"] and sorted(params[1]) == ["bias", "kernel"]
    assert model.apply(params, IMAGES).shape == (3, 3)
    assert type(params[1]) is dict


def test_an_nnx_module_brings_its_weights() -> None:
    module = nnx.Linear(6, 4, rngs=nnx.Rngs(3))
    model = C.layered([(module, jnp.tanh), (dense(2), C.identity)])
    params = model.init(KEY, X.astype(jnp.float32))
    np.testing.assert_array_equal(params[0]["kernel"], module.kernel[...])


def test_a_layer_without_parameters_has_the_entry_of_none() -> None:
    model = C.layered([(lambda h: h[:, :2], jnp.tanh), (dense(2), C.identity)])
    params = model.init(KEY, X)
    assert params[0] == ()
    grads, _, _ = C.Backprop()(model, lambda o, t: jnp.sum((o - t) ** 2, axis=1))[1](
        params, (), (X, jnp.zeros((5, 2))), KEY
    )
    assert grads[0] == ()


def test_weights_are_what_the_maps_see() -> None:
    model = C.layered(
        [(dense(2), C.identity)], weights=lambda own: jax.tree.map(lambda w: 2 * w, own)
    )
    params = model.init(KEY, X)
    plain = C.layered([(dense(2), C.identity)])
    np.testing.assert_allclose(
        model.apply(params, X), plain.apply(jax.tree.map(lambda w: 2 * w, params), X), rtol=1e-12
    )


def test_one_example_is_enough_to_draw() -> None:
    model = network()
    of_all, of_one = model.init(KEY, X), model.init(KEY, X[:1])
    pairs = zip(jax.tree.leaves(of_all), jax.tree.leaves(of_one), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


SHARED = nnx.Linear(3, 3, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], r"`layers` must be a list of at least one layer \(\*maps, activation\).*: got \[\]"),
        ("ab", "`layers` must be a list of at least one layer"),
        ([(jnp.tanh,)], r"`layers\[0\]` must be .*, with a map and an activation"),
        ([()], r"`layers\[0\]` must be .*, with a map and an activation"),
        (
            [(dense(2), dense(2))],
            r"`layers\[0\]` must end with an elementwise activation, .* got a pair",
        ),
        ([(dense(2), SHARED)], r"must end with an elementwise activation, .* got Linear"),
        (
            [(dense(2), dense(3), jnp.tanh)],
            r"`layers\[0\]` must have at most one map with parameters: got a pair .* and a pair",
        ),
        ([(3, jnp.tanh)], r"`layers\[0\]\[0\]` must be a pair \(init, apply\), a flax module"),
        ([(linen.Dense, jnp.tanh)], r"`layers\[0\]\[0\]` must be a pair .*: got Dense"),
        (
            [(SHARED, jnp.tanh), (SHARED, C.identity)],
            r"`layers\[1\]\[0\]` must be a module of its own: got a Linear with weights of layers\[0\]\[0\]",
        ),
        (
            [(SHARED, jnp.tanh), (nnx.Sequential(SHARED), C.identity)],
            r"`layers\[1\]\[0\]` must be a module of its own: got a Sequential with weights of layers\[0\]\[0\]",
        ),
        (
            [(partial(nnx.BatchNorm, 6), jnp.tanh)],
            "BatchNorm keeps more than parameters .* take LayerNorm",
        ),
    ],
)
def test_layers_are_refused(layers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        C.layered(layers)


def test_weights_is_a_function() -> None:
    with pytest.raises(ValueError, match="`weights` must be a function of a layer's parameters"):
        C.layered([(dense(2), C.identity)], weights=3)


def test_an_activation_that_pools_is_refused_where_it_shows() -> None:
    """Signals from above have the shape of `h`, and would be spread over the larger `a`."""
    model = C.layered([(dense(4), lambda a: a.mean(1, keepdims=True)), (dense(2), C.identity)])
    message = r"the activation <lambda> must be elementwise: got shape \(5, 1\) from \(5, 4\)"
    with pytest.raises(ValueError, match=message):
        model.init(KEY, X)


def test_a_linen_module_with_state_is_refused_where_it_shows() -> None:
    model = C.layered([(linen.BatchNorm(use_running_average=True), jnp.tanh)])
    with pytest.raises(ValueError, match=r"BatchNorm keeps more than parameters .* take LayerNorm"):
        model.init(KEY, X)
