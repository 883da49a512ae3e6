"""Flax modules as pure functions: the same values, all transformations, and what is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import toolkit as tk

X = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
KEY = jax.random.key(0)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x: Any, scale: float = 1.0) -> Any:
        return linen.Dense(2)(jnp.tanh(linen.Dense(4)(x))) * scale


class Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.second = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: Any, scale: float = 1.0) -> Any:
        return self.second(jnp.tanh(self.first(x))) * scale


MODULES = {
    "linen": Linen(),
    "linen class": Linen,
    "linen factory": lambda: Linen(),
    "nnx class": Nnx,
    "nnx factory": lambda rngs: Nnx(rngs),
    "nnx module": Nnx(nnx.Rngs(0)),
    "nnx partial": partial(nnx.Linear, 3, 2),
    "nnx list": lambda rngs: nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), jnp.tanh),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_model_is_jitted_mapped_and_differentiated(name: str) -> None:
    init, apply = tk.models.pure(MODULES[name])
    params = init(KEY, X)
    assert all(type(leaf) is type(X) for leaf in jax.tree.leaves(params))
    np.testing.assert_allclose(jax.jit(apply)(params, X), apply(params, X), rtol=1e-12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), jax.jit(init)(KEY, X), params
    )

    keys = jax.random.split(KEY, 3)
    outputs = jax.vmap(apply, (0, None))(jax.vmap(init, (0, None))(keys, X), X)
    np.testing.assert_allclose(outputs[1], apply(init(keys[1], X), X), rtol=1e-5)

    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)  # flax draws float32
    loss = lambda params: jnp.sum(apply(params, X) ** 2)
    gradient = jax.grad(loss)(params)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    moved = jax.tree.map(lambda p, g: p + 1e-6 * g, params, gradient)
    squares = sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))
    np.testing.assert_allclose((loss(moved) - loss(params)) / 1e-6, squares, rtol=1e-4)


@pytest.mark.parametrize("name", ["linen", "nnx class", "nnx factory"])
def test_another_key_gives_other_weights(name: str) -> None:
    init, _ = tk.models.pure(MODULES[name])
    first, same, other = (jax.tree.leaves(init(jax.random.key(k), X)) for k in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_linen_is_what_flax_computes() -> None:
    init, apply = tk.models.pure(Linen())
    variables = Linen().init(KEY, X)
    params = init(KEY, X)
    jax.tree.map(np.testing.assert_array_equal, params, variables["params"])
    np.testing.assert_array_equal(apply(params, X), Linen().apply(variables, X))
    np.testing.assert_array_equal(apply(params, X, scale=3.0), 3 * apply(params, X))
    np.testing.assert_array_equal(apply(params, X, 3.0), 3 * apply(params, X))


def test_an_nnx_module_keeps_its_own_weights() -> None:
    module = Nnx(nnx.Rngs(7))
    init, apply = tk.models.pure(module)
    params = init(jax.random.key(5), X)
    np.testing.assert_array_equal(params["first"]["kernel"], module.first.kernel[...])
    np.testing.assert_array_equal(apply(params, X), module(X))
    doubled = jax.tree.map(lambda leaf: 2 * leaf, params)
    assert not np.array_equal(apply(doubled, X), module(X))  # the params count, not the module


def test_a_constructor_of_nnx_draws_as_nnx_does() -> None:
    init, apply = tk.models.pure(Nnx)
    np.testing.assert_array_equal(apply(init(KEY, X), X), Nnx(nnx.Rngs(KEY))(X))


class Shuffled(linen.Module):
    """A parameter that is an integer and one that is a key, beside one that learns."""

    @linen.compact
    def __call__(self, x: Any) -> Any:
        order = self.param("order", lambda key: jax.random.permutation(key, 3))
        key = self.param("key", lambda key: jax.random.key(3))
        noise = jax.random.normal(key, (3,))
        return linen.Dense(2)(x[:, order] + noise)


def test_integer_and_key_leaves_are_carried() -> None:
    init, apply = tk.models.pure(Shuffled())
    params = init(KEY, X)
    assert jnp.issubdtype(params["order"].dtype, jnp.integer)
    assert jnp.issubdtype(params["key"].dtype, jax.dtypes.prng_key)
    solve = tk.argmin(
        lambda y, _: jnp.sum((apply(y, X) - 1) ** 2), tk.solver.GradientDescent(0.1, 3)
    )
    moved = solve(params, None).value
    np.testing.assert_array_equal(moved["order"], params["order"])
    assert not np.array_equal(moved["Dense_0"]["kernel"], params["Dense_0"]["kernel"])


class Normalised(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.BatchNorm(use_running_average=False)(x)


class Dropped(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dropout(0.5, deterministic=False)(linen.Dense(8)(x))


class Sown(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        self.sow("intermediates", "seen", x)
        return linen.Dense(2)(x)


def test_state_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^Normalised keeps more .* \(batch_stats\).*LayerNorm"):
        tk.models.pure(Normalised()).init(KEY, X)
    with pytest.raises(ValueError, match=r"^BatchNorm keeps .*\(BatchStat mean, BatchStat var\)"):
        tk.models.pure(partial(nnx.BatchNorm, 3))
    with pytest.raises(ValueError, match=r"^Dropout keeps .*RngKey rngs\.key"):
        tk.models.pure(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))


def test_linen_dropout_asks_for_its_key() -> None:
    init, apply = tk.models.pure(Dropped())
    params = init(KEY, X)
    with pytest.raises(
        ValueError, match=r'^Dropped draws random numbers: .*rngs=\{"dropout": key\}'
    ):
        apply(params, X)
    first, second = (apply(params, X, rngs={"dropout": jax.random.key(k)}) for k in (0, 1))
    assert not np.array_equal(first, second)


def test_what_is_sown_is_no_state() -> None:
    init, apply = tk.models.pure(Sown())
    assert list(init(KEY, X)) == ["Dense_0"]
    assert apply(init(KEY, X), X).shape == (2, 2)


@pytest.mark.parametrize(
    ("module", "said"), [(3, "got int"), (lambda: 3, "returned int"), ({}, "got dict")]
)
def test_what_is_no_module_is_refused(module: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        tk.models.pure(module)
