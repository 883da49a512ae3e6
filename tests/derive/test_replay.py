"""A replayed scan: same value, same derivatives, little memory, no forward mode."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.adjoint import Unroll
from toolkit.derive.replay import replayed_scan, scan

STEPS = 10
START = {"y": jnp.asarray([0.3, -0.2]), "count": jnp.asarray(0)}
OPERANDS = {"w": jnp.asarray([[0.5, 0.3], [-0.2, 0.8]]), "index": jnp.asarray(1)}
XS = {"shift": jnp.linspace(-0.5, 0.5, STEPS), "number": jnp.arange(STEPS)}


def body(carry: dict, operands: dict, x: dict) -> dict:
    scale = jnp.where(x["number"] % 3 == operands["index"], 1.5, 1.0)
    y = jnp.tanh(scale * operands["w"] @ carry["y"] + x["shift"])
    return {"y": y, "count": carry["count"] + x["number"]}


def _by_hand(y: np.ndarray, w: np.ndarray, shift: np.ndarray) -> np.ndarray:
    for t in range(STEPS):
        y = np.tanh((1.5 if t % 3 == 1 else 1.0) * w @ y + shift[t])
    return y


def _replayed(y: Any, w: Any, shift: Any, sizes: tuple) -> jax.Array:
    last = replayed_scan(
        body,
        body,
        START | {"y": y},
        OPERANDS | {"w": w},
        XS | {"shift": shift},
        sizes,
        "no forward mode here: use another rule",
    )
    return last["y"]


POINT = (START["y"], OPERANDS["w"], XS["shift"])
SIZES = pytest.mark.parametrize("sizes", [(), (1,), (3,), (5,), (10,), (99,), (2, 2), (3, 2, 1)])


@SIZES
def test_value_and_integer_leaves(sizes: tuple) -> None:
    last = jax.jit(lambda c, o, x: replayed_scan(body, body, c, o, x, sizes), static_argnums=())(
        START, OPERANDS, XS
    )
    np.testing.assert_allclose(last["y"], _by_hand(*map(np.asarray, POINT)), rtol=1e-13)
    assert last["count"] == sum(range(STEPS))
    plain = scan(body, START, OPERANDS, XS)
    np.testing.assert_array_equal(last["y"], plain["y"])


@SIZES
def test_gradient_in_carry_operands_and_inputs_is_the_difference_quotient(sizes: tuple) -> None:
    loss = lambda y, w, shift: jnp.sum(_replayed(y, w, shift, sizes) * jnp.asarray([1.0, 2.0]))
    gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(*POINT)
    h, weights = 1e-6, np.asarray([1.0, 2.0])
    for i, gradient in enumerate(gradients):
        for place in np.ndindex(gradient.shape):
            sides = []
            for sign in (h, -h):
                point = [np.array(leaf) for leaf in POINT]
                point[i][place] += sign
                sides.append(weights @ _by_hand(*point))
            # Central differences of h = 1e-6 are good to about 1e-9.
            np.testing.assert_allclose(gradient[place], (sides[0] - sides[1]) / (2 * h), atol=1e-8)


@pytest.mark.parametrize("sizes", [(), (3,)])
def test_the_reverse_pass_is_that_of_the_replayed_step(sizes: tuple) -> None:
    def halved(carry: dict, operands: dict, x: dict) -> dict:
        after = body(carry, operands, x)
        return after | {"y": after["y"] / 2}

    of = lambda replayed: jax.grad(
        lambda y: jnp.sum(replayed_scan(body, replayed, START | {"y": y}, OPERANDS, XS, sizes)["y"])
    )(START["y"])
    np.testing.assert_allclose(of(halved), of(body) / 2**STEPS, rtol=1e-12)


@pytest.mark.parametrize("sizes", [(), (3,), (2, 2)])
def test_second_derivatives_both_ways(sizes: tuple) -> None:
    y, w, shift = POINT
    loss = lambda w: jnp.sum(_replayed(y, w, shift, sizes) ** 3)

    def plain(w: Any) -> jax.Array:
        return jnp.sum(scan(body, START, OPERANDS | {"w": w}, XS)["y"] ** 3)

    expected = jax.hessian(plain)(w)
    for second in (jax.hessian(loss), jax.jacrev(jax.grad(loss))):
        np.testing.assert_allclose(jax.jit(second)(w), expected, rtol=1e-10, atol=1e-14)


def test_vmap_of_the_gradient() -> None:
    w = POINT[1]
    loss = lambda w, index: jnp.sum(
        replayed_scan(body, body, START, {"w": w, "index": index}, XS, (3,))["y"]
    )
    ws, indices = jnp.stack([w, 2 * w]), jnp.asarray([1, 2])
    got = jax.jit(jax.vmap(jax.grad(loss)))(ws, indices)
    expected = [jax.grad(loss)(one, index) for one, index in zip(ws, indices, strict=True)]
    np.testing.assert_allclose(got, jnp.stack(expected), rtol=1e-12)


def test_forward_mode_is_refused_by_the_given_message() -> None:
    y, w, shift = POINT
    f = lambda w: _replayed(y, w, shift, ())
    for push in (f, jax.jit(f)):
        with pytest.raises(TypeError, match="no forward mode here: use another rule"):
            jax.jvp(push, (w,), (w,))


# ---------------------------------------------------------------------------------------- memory

IN, HIDDEN, BATCH = 16, 32, 128


def _network() -> tuple:
    rng = np.random.default_rng(0)
    data = jnp.asarray(rng.normal(size=(BATCH, IN)))
    y0 = {
        "a": jnp.asarray(0.1 * rng.normal(size=(IN, HIDDEN))),
        "b": jnp.asarray(0.1 * rng.normal(size=(HIDDEN, 1))),
    }

    def fun(y: dict, theta: Any) -> jax.Array:
        return jnp.mean((jnp.tanh(data @ y["a"]) @ y["b"] - 1) ** 2 * jax.nn.sigmoid(theta))

    return fun, y0, jnp.zeros((BATCH, 1))


def _temporary_bytes(gradient: Any, *args: Any) -> int:
    return jax.jit(gradient).lower(*args).compile().memory_analysis().temp_size_in_bytes


def _unrolled_bytes(steps: int, checkpoint: Any) -> int:
    fun, y0, theta = _network()
    solver = tk.solver.GradientDescent(0.1, steps, momentum=0.9)
    solve = tk.argmin(fun, solver, adjoint=Unroll(checkpoint=checkpoint))
    outer = lambda theta: jnp.sum(solve(y0, theta).value["b"] ** 2)
    return _temporary_bytes(jax.grad(outer), theta)


def test_unroll_stores_the_iterates_and_not_the_residuals() -> None:
    fun, y0, theta = _network()

    def naive(theta: Any) -> jax.Array:
        def step(carry: tuple, _: None) -> tuple:
            y, v = carry
            gradient = jax.grad(fun)(y, theta)
            v = jax.tree.map(lambda v, g: 0.9 * v - g, v, gradient)
            return (jax.tree.map(lambda y, v: y + 0.1 * v, y, v), v), None

        start = (y0, jax.tree.map(jnp.zeros_like, y0))
        return jnp.sum(jax.lax.scan(step, start, None, length=100)[0][0]["b"] ** 2)

    stored = _unrolled_bytes(100, None)
    iterates = 100 * 8 * (IN * HIDDEN + HIDDEN)  # float64; no product needs the old velocities
    # The iterates, and working memory of a step: a few copies of the activations [BATCH, HIDDEN].
    assert iterates <= stored <= 1.5 * iterates
    # Measured 0.05; the residuals of a step are here about 20 times the iterate.
    assert stored <= 0.15 * _temporary_bytes(jax.grad(naive), theta)


def test_checkpoints_store_less() -> None:
    every, sqrt, few = (_unrolled_bytes(400, how) for how in (None, "sqrt", 100))
    # Two times 20 carries of iterate and velocity, against 400 iterates: 0.2, and working memory.
    assert sqrt < 0.3 * every
    assert sqrt < few < every


@pytest.mark.slow
def test_memory_grows_as_the_steps_or_as_their_root() -> None:
    counts = np.asarray([64, 256, 1024])
    for checkpoint, slope in ((None, 1.0), ("sqrt", 0.5)):
        sizes = [_unrolled_bytes(int(count), checkpoint) for count in counts]
        # Working memory that does not grow flattens the fit a little.
        fit = np.polyfit(np.log(counts), np.log(sizes), 1)[0]
        assert slope - 0.2 <= fit <= slope + 0.1, (checkpoint, sizes)
