"""`tk.while_loop`: ends on its condition, in both passes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.control import LoopInfo, checkpoint, forward, reversible, store, truncate
from toolkit.derive.refusal import refuse_reverse_mode

UNITS, BOUND = 3, 40
REVERSE = {
    "store": (store(), BOUND),
    "store, cut off": (store(), 5),
    "sqrt": (checkpoint(), BOUND),
    "every third": (checkpoint(3), BOUND),
    "levels": (checkpoint((3, 4, 4)), BOUND),
    "more than the bound": (checkpoint(99), BOUND),
    "truncate": (truncate(BOUND), BOUND),
    "truncate, no bound": (truncate(BOUND), None),
    "forward": (forward(), BOUND),
    "forward, no bound": (forward(), None),
}
every_rule = pytest.mark.parametrize("name", REVERSE)


def _operands() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    return jnp.asarray(0.8 * np.eye(UNITS) + 0.1 * rng.normal(size=(UNITS, UNITS))), jnp.ones(UNITS)


def _loop(weights: jax.Array, start: jax.Array, gradient: Any, bound: int | None) -> Any:
    """Until the norm falls below what also is differentiated, and moves nothing."""
    cond = lambda carry: jnp.sum(carry["x"] ** 2) > 0.2 * jnp.exp(0 * weights[0, 0])

    def body(carry: dict) -> dict:
        return carry | {"x": jnp.tanh(weights @ carry["x"]), "count": carry["count"] + 1}

    init = {"x": start, "count": 0, "key": jax.random.key(1), "nothing": None}
    return tk.while_loop(cond, body, init, bound, gradient, with_info=True)


def _under(name: str) -> Any:
    gradient, bound = REVERSE[name]
    return lambda w, x: jnp.sum(_loop(w, x, gradient, bound)[0]["x"] ** 3)


def _written_out(bound: int | None) -> Any:
    def loss(weights: jax.Array, start: jax.Array) -> jax.Array:
        steps = int(_loop(weights, start, store(), bound)[1].steps)
        return _steps_written_out(steps)(weights, start)

    return loss


def _steps_written_out(steps: int) -> Any:
    def loss(weights: jax.Array, x: jax.Array) -> jax.Array:
        for _ in range(steps):
            x = jnp.tanh(weights @ x)
        return jnp.sum(x**3)

    return loss


def _steps(bound: int | None, start: Any = None) -> int:
    weights, x = _operands()
    return int(_loop(weights, x if start is None else start, store(), bound)[1].steps)


def test_the_example_stops_between_the_segments() -> None:
    assert 5 < _steps(BOUND) < BOUND and _steps(BOUND) % 3


@every_rule
def test_value_and_end_are_those_of_lax_while_loop(name: str) -> None:
    gradient, bound = REVERSE[name]
    carry, info = jax.jit(lambda w, x: _loop(w, x, gradient, bound))(*_operands())
    weights, x = _operands()

    def plain(weights: jax.Array, x: jax.Array) -> tuple:
        going = lambda c: (jnp.sum(c[0] ** 2) > 0.2) & (c[1] < (bound or 999))
        return jax.lax.while_loop(going, lambda c: (jnp.tanh(weights @ c[0]), c[1] + 1), (x, 0))

    expected, steps = jax.jit(plain)(weights, x)
    assert isinstance(info, LoopInfo)
    assert np.asarray(carry["x"]).tobytes() == np.asarray(expected).tobytes()
    assert carry["count"] == info.steps == steps
    assert bool(info.stopped) == (bound != 5)
    assert carry["key"] == jax.random.key(1) and carry["nothing"] is None


@every_rule
def test_gradient_is_that_of_the_steps_written_out(name: str) -> None:
    got = jax.jit(jax.grad(_under(name), (0, 1)))(*_operands())
    expected = jax.grad(_steps_written_out(_steps(REVERSE[name][1])), (0, 1))(*_operands())
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["store", "every third", "levels", "truncate", "forward"])
def test_hessian_is_that_of_the_steps_written_out(name: str) -> None:
    weights, x = _operands()
    got = jax.jit(jax.hessian(_under(name)))(weights, x)
    expected = jax.jit(jax.hessian(_steps_written_out(_steps(REVERSE[name][1]))))(weights, x)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["store", "levels", "truncate", "forward, no bound"])
def test_each_lane_of_a_batch_ends_by_itself(name: str) -> None:
    weights, x = _operands()
    starts = jnp.stack([x, 0.1 * x, 3 * x, -x / 2])
    got = jax.jit(jax.vmap(jax.grad(_under(name), (0, 1)), (None, 0)))(weights, starts)
    counts = {_steps(BOUND, start) for start in starts}
    assert len(counts) == 4 and 0 in counts
    for lane, start in enumerate(starts):
        exact = _steps_written_out(_steps(BOUND, start))
        for a, b in zip(got, jax.grad(exact, (0, 1))(weights, start), strict=True):
            np.testing.assert_allclose(a[lane], b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2])
def test_truncation_differentiates_the_last_steps(k: int) -> None:
    weights, start = _operands()
    steps = _steps(BOUND)

    def last(weights: jax.Array) -> jax.Array:
        x = start
        for t in range(steps):
            x = jnp.tanh((weights if t >= steps - k else jax.lax.stop_gradient(weights)) @ x)
        return jnp.sum(x**3)

    under = lambda w, x: jnp.sum(_loop(w, x, truncate(k), BOUND)[0]["x"] ** 3)
    w_bar, x_bar = jax.jit(jax.grad(under, (0, 1)))(weights, start)
    np.testing.assert_allclose(w_bar, jax.grad(last)(weights), rtol=1e-9)
    assert not x_bar.any()


def test_forward_mode_without_a_bound() -> None:
    weights, x = _operands()
    push = lambda f: jax.jvp(lambda w: f(w, x), (weights,), (jnp.cos(weights),))
    unbounded = lambda w, x: jnp.sum(_loop(w, x, store(), None)[0]["x"] ** 3)
    exact = _steps_written_out(_steps(None))
    np.testing.assert_allclose(jax.jit(lambda: push(unbounded))(), push(exact), rtol=1e-9)


@pytest.mark.parametrize("gradient", [store(), checkpoint(), checkpoint((10, 10, 10))])
def test_both_passes_make_as_many_steps_as_there_are(gradient: Any) -> None:
    made = []

    def loss(x: jax.Array, count: jax.Array) -> jax.Array:
        def body(carry: tuple) -> tuple:
            jax.debug.callback(lambda: made.append(1))
            return jnp.sin(carry[0]), carry[1] + 1

        return tk.while_loop(lambda carry: carry[1] < count, body, (x, 0), 1000, gradient)[0]

    gradient_of = jax.jit(jax.grad(loss))
    for steps in (7, 70):
        made.clear()
        gradient_of(1.0, steps)
        jax.effects_barrier()
        # Forward, again for each level, and once more for the pullback.
        levels = {store(): 0, checkpoint(): 1}.get(gradient, 2)
        assert len(made) <= (2 + levels) * steps


def test_checkpoints_store_less() -> None:
    def temporary(gradient: Any) -> int:
        def loss(x: jax.Array) -> jax.Array:
            body = lambda c: (jnp.sin(c[0]), c[1] + 1)
            return jnp.sum(tk.while_loop(lambda c: c[1] < 10, body, (x, 0), 1000, gradient)[0])

        compiled = jax.jit(jax.grad(loss)).lower(jnp.ones(1000)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    carry = 8000
    assert 1000 * carry <= temporary(store()) <= 1010 * carry
    assert temporary(checkpoint()) <= 80 * carry
    assert temporary(checkpoint((10, 10, 10))) <= 50 * carry


@pytest.mark.parametrize("transform", [jax.grad, lambda f: jax.jit(jax.grad(f)), jax.jacrev])
def test_reverse_mode_without_a_bound_names_the_bound(transform: Any) -> None:
    unbounded = lambda x: jnp.sum(_loop(_operands()[0], x, store(), None)[0]["x"])
    with pytest.raises(TypeError, match=r"no reverse mode without a bound.*give `max_steps`"):
        transform(unbounded)(jnp.ones(UNITS))
    with pytest.raises(TypeError, match="give `max_steps`"):
        jax.vmap(transform(unbounded))(jnp.ones((2, UNITS)))


def test_a_missing_mode_is_refused_by_name() -> None:
    weights, x = _operands()
    with pytest.raises(TypeError, match=r"forward\(\) has no reverse mode over its derivative"):
        jax.jit(jax.jacrev(jax.grad(_under("forward"))))(weights, x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: tk.while_loop(lambda c: c > 0, lambda c: c, jnp.ones(3)),
            TypeError,
            r"`cond` must return one boolean of shape \(\): got bool\[3\]; reduce",
        ),
        (
            lambda: tk.while_loop(lambda c: c, lambda c: c, jnp.ones(())),
            TypeError,
            r"`cond` must return one boolean of shape \(\): got float64\[\]",
        ),
        (
            lambda: tk.while_loop(lambda c: (c > 0,), lambda c: c, jnp.ones(())),
            TypeError,
            "`cond` must return one boolean",
        ),
        (lambda: tk.while_loop(True, lambda c: c, 1.0), TypeError, "`cond` must be a function"),
        (
            lambda: tk.while_loop(lambda c: c > 0, lambda c: c[None], jnp.ones(())),
            TypeError,
            r"carry is float64\[\] before and float64\[1\] after one step",
        ),
        (
            lambda: tk.while_loop(lambda c: c > 0, lambda c: c - 1, 1.0, 0),
            ValueError,
            "`max_steps` must be None or a positive int.*got 0",
        ),
        (
            lambda: tk.while_loop(lambda c: c > 0, lambda c: c - 1, 1.0, None, checkpoint()),
            ValueError,
            r"`max_steps` must be given to tk.while_loop under checkpoint\(\)",
        ),
        (
            lambda: tk.while_loop(lambda c: c > 0, lambda c: c, 1.0, 9, reversible(lambda c: c)),
            ValueError,
            r"`gradient` must not be reversible\(\) in tk.while_loop: use tk.control.checkpoint",
        ),
        (
            lambda: tk.while_loop(lambda c: c > 0, lambda c: c, 1.0, 9, store),
            TypeError,
            "`gradient` must be a policy",
        ),
    ],
)
def test_what_is_refused_says_what_to_do(call: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_number_is_promoted_and_a_boolean_constant_will_do() -> None:
    assert tk.while_loop(lambda c: c < 10, lambda c: c * 1.5, 1) == 1.5**6
    assert tk.while_loop(lambda c: False, lambda c: c * 2, 1.0) == 1.0


def test_the_guard_of_reverse_mode_is_free_and_platform_neutral() -> None:
    guarded = lambda x: refuse_reverse_mode({"x": jnp.sin(x), "n": 3}, "no way back")["x"]
    push = jax.jit(lambda x: jax.jvp(guarded, (x,), (jnp.ones_like(x),)))
    np.testing.assert_allclose(push(0.3)[1], np.cos(0.3), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.jacfwd(guarded)))(jnp.ones(2)), np.cos([1, 1]))
    np.testing.assert_allclose(jax.jacfwd(jax.jacfwd(guarded))(0.3), -np.sin(0.3), rtol=1e-12)
    assert "custom_call" not in push.lower(0.3).as_text()
    exported = jax.export.export(push, platforms=["tpu", "cuda", "cpu"])(jnp.ones(()))
    assert exported.platforms == ("tpu", "cuda", "cpu")
    for f in (guarded, jax.jit(guarded)):
        with pytest.raises(TypeError, match="no way back"):
            jax.grad(f)(0.3)
