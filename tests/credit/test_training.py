"""Training by a rule: a pass over the data, and how the rule is measured on the way."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toolkit as tk
from tests.networks import X, cross_entropy, network, targets
from tests.traces import counted

C = tk.credit
KEY = jax.random.key(0)
MODEL = network()
BATCH = (X, targets(5))
DATA = (jax.random.normal(jax.random.key(3), (11, 6)), targets(11))


@pytest.mark.parametrize(
    ("rule", "optimizer", "message"),
    [
        ("dual", optax.sgd(0.1), "`rule` must be one of tk.credit, such as .*: got 'dual'"),
        (C.Backprop, optax.sgd(0.1), "`rule` must be one of tk.credit, such as .*: got <class"),
        (C.Backprop(), "adam", "`optimizer` must be an optax transformation, .*: got 'adam'"),
        (C.Backprop(), 0.1, "`optimizer` must be an optax transformation, .*: got 0.1"),
    ],
)
def test_what_trains_is_a_rule_and_an_optimizer(rule: Any, optimizer: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        C.train(MODEL, cross_entropy, rule, optimizer)


@pytest.fixture(scope="module", name="started")
def _started() -> Any:
    init, step = C.train(MODEL, cross_entropy, C.NodePerturbation(), optax.sgd(0.1))
    return init(KEY, MODEL.init(KEY, X), BATCH), step


def test_an_epoch_is_its_steps(started: Any) -> None:
    state, step = started
    after, info = jax.jit(lambda state, key: C.epoch(step, state, DATA, 3, key))(state, KEY)
    assert after.step == 3 and info.loss.shape == (3,)  # 2 of 11 examples are left out

    order_key, rule_key = jax.random.split(KEY)
    order = jax.random.permutation(order_key, 11)[:9].reshape(3, 3)
    for rows, key in zip(order, jax.random.split(rule_key, 3), strict=True):
        state, _ = step(state, (DATA[0][rows], DATA[1][rows]), key)
    jax.tree.map(lambda got, wanted: np.testing.assert_allclose(got, wanted, 1e-12), after, state)


def test_every_example_comes_once_and_each_key_has_an_order_of_its_own(started: Any) -> None:
    state, _ = started

    def seen(state: Any, batch: Any, key: Any) -> Any:
        return state, C.Info(batch[1], 0.0, 0, 0)

    def order(key: Any) -> Any:
        data = (DATA[0], jnp.arange(11))
        return C.epoch(seen, state, data, 11, key)[1].loss[0]

    first, second = order(KEY), order(jax.random.key(1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(11))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("size", [0, 12, True, 2.0])
def test_a_batch_must_fit(started: Any, size: Any) -> None:
    state, step = started
    with pytest.raises(ValueError, match="`batch_size` must be an int from 1 to 11"):
        C.epoch(step, state, DATA, size, KEY)


def test_alignment_is_a_pure_function_with_the_numbers_of_compare() -> None:
    rule = C.FeedbackAlignment()
    params = MODEL.init(KEY, X)
    rows = C.compare(MODEL, cross_entropy, params, BATCH, {"rule": rule}, KEY).rows
    init, _ = rule(MODEL, cross_entropy)
    measure, traces = counted(C.alignment(MODEL, cross_entropy, rule))
    measure = jax.jit(measure)
    state_key, call_key = jax.random.split(KEY)
    found = measure(params, init(state_key, params, BATCH), BATCH, call_key)
    np.testing.assert_allclose(found.cosine, [row.cosine for row in rows], rtol=1e-9)
    np.testing.assert_allclose(found.norm_ratio, [row.norm_ratio for row in rows], rtol=1e-9)
    assert abs(found.cosine[0]) < 0.99 and abs(found.cosine[-1] - 1) < 1e-12

    keys = jax.random.split(KEY, 3)
    assert len(traces) == 1
    many = jax.vmap(lambda key: measure(params, init(key, params, BATCH), BATCH, key))(keys)
    alone = measure(params, init(keys[1], params, BATCH), BATCH, keys[1])
    np.testing.assert_allclose(many.cosine[1], alone.cosine, rtol=1e-9)


def test_a_gradient_of_zero_has_no_direction() -> None:
    def silent(model: Any, loss: Any) -> Any:
        _, gradients = C.Backprop()(model, loss)

        def zeros(*arguments: Any) -> Any:
            gradient, state, info = gradients(*arguments)
            return jax.tree.map(jnp.zeros_like, gradient), state, info

        return lambda key, params, batch: (), zeros

    found = C.alignment(MODEL, cross_entropy, silent)(MODEL.init(KEY, X), (), BATCH, KEY)
    assert np.isnan(found.cosine).all() and (found.norm_ratio == 0).all()


def test_norms_whose_product_vanishes_have_a_direction() -> None:
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), MODEL.init(KEY, X))
    tiny = lambda output, target: jnp.float32(1e-25) * cross_entropy(output, target)
    x, target = (one.astype(jnp.float32) for one in BATCH)
    found = C.alignment(MODEL, tiny, C.Backprop())(params, (), (x, target), KEY)
    assert found.cosine.dtype == jnp.float32
    np.testing.assert_allclose(found.cosine, 1, rtol=1e-6)
