"""`tk.loop`: what it accepts, what it refuses, and how often it traces."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.control import checkpoint, forward, reversible, store, truncate

POLICIES = [
    store(),
    checkpoint(),
    checkpoint((2, 2)),
    truncate(2),
    reversible(lambda carry, _: carry / 2),
    forward(),
]
every_policy = pytest.mark.parametrize("gradient", POLICIES, ids=lambda p: type(p).__name__)


@every_policy
@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap], ids=lambda t: t.__name__)
def test_the_body_is_traced_once(gradient: Any, transform: Any) -> None:
    traces = []

    def f(x: jax.Array) -> jax.Array:
        def body(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            traces.append(1)
            return carry * 2, None

        return tk.loop(body, x, None, 4, gradient)[0]

    transform(f)(jnp.ones(3 if transform is jax.vmap else ()))
    assert len(traces) == 1


def test_a_number_that_is_promoted_costs_one_more_trace() -> None:
    traces = []

    def body(carry: Any, _: None) -> tuple[Any, None]:
        traces.append(1)
        return carry + jnp.float32(0.5), None

    carry, _ = tk.loop(body, 0, None, 3)
    assert len(traces) == 2
    assert (carry, carry.dtype) == (1.5, jnp.float32)


@every_policy
@pytest.mark.parametrize("start", [1, 1.0, np.float32(1), jnp.asarray(1, jnp.int32)])
def test_numbers_are_promoted_as_lax_scan_promotes_them(gradient: Any, start: Any) -> None:
    body = lambda carry, x: (carry * 2 if carry.dtype == jnp.int32 else carry * jnp.ones(()), carry)
    if isinstance(gradient, reversible):
        gradient = reversible(
            lambda c, _: c // 2 if c.dtype == jnp.int32 else c * jnp.ones((), c.dtype)
        )
    try:
        expected = jax.lax.scan(body, start, None, 5)
    except TypeError:
        with pytest.raises(TypeError, match="a carry of the types it was given"):
            tk.loop(body, start, None, 5, gradient)
        return
    got = tk.loop(body, start, None, 5, gradient)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert got[0].weak_type == expected[0].weak_type


@every_policy
def test_no_steps_give_the_start_and_its_derivative(gradient: Any) -> None:
    body = lambda carry, x: (carry * 2, carry + x)

    def f(start: jax.Array, xs: jax.Array) -> Any:
        carry, ys = tk.loop(body, start, xs, None, gradient)
        return jnp.sum(carry**2) + jnp.sum(ys), (carry, ys)

    (start_bar, xs_bar), (carry, ys) = jax.grad(f, (0, 1), has_aux=True)(
        jnp.ones(3), jnp.zeros((0, 3))
    )
    np.testing.assert_array_equal(carry, jnp.ones(3))
    assert (ys.shape, xs_bar.shape) == ((0, 3), (0, 3))
    np.testing.assert_array_equal(start_bar, 2 * jnp.ones(3))
    assert tk.loop(lambda c, _: (c, c), 1.0, None, 0, gradient)[1].shape == (0,)


@every_policy
def test_what_the_body_closes_over_is_differentiated_at_two_levels(gradient: Any) -> None:
    def f(a: jax.Array) -> jax.Array:
        def outer(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            double = lambda c, _: (c + jnp.sin(a), None)
            back = reversible(lambda c, _: c - jnp.sin(a))
            inner = back if isinstance(gradient, reversible) else gradient
            return tk.loop(double, carry * 2, None, 2, inner)[0], None

        return tk.loop(outer, jnp.ones(()), None, 3)[0]

    # c <- 2 c + 2 sin(a), three times: 8 + 14 sin(a).
    expected = (8 if isinstance(gradient, truncate) else 14) * jnp.cos(0.3)
    if not isinstance(gradient, truncate):
        np.testing.assert_allclose(jax.jit(jax.grad(f))(0.3), expected, rtol=1e-12)
    np.testing.assert_allclose(f(0.3), 8 + 14 * jnp.sin(0.3), rtol=1e-12)


def test_a_loop_reads_globals_anew() -> None:
    box = {"a": 2.0}
    body = lambda carry, _: (carry * box["a"], None)
    assert tk.loop(body, 1.0, None, 3)[0] == 8
    box["a"] = 3.0
    assert tk.loop(body, 1.0, None, 3)[0] == 27


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: tk.loop(lambda c, _: ({"w": c["w"][None]}, None), {"w": jnp.ones(3)}, None, 2),
            TypeError,
            r"carry\['w'\] is float64\[3\] before and float64\[1,3\] after one step\. Give `init`",
        ),
        (
            lambda: tk.loop(lambda c, _: (c + 0.5, None), jnp.zeros((), int), None, 2),
            TypeError,
            r"carry is int64\[\] before and float64\[\] after one step.*\.astype\(\)",
        ),
        (
            lambda: tk.loop(lambda c, _: ((c, c), None), jnp.ones(()), None, 2),
            TypeError,
            r"a carry of the structure it was given: got \(float64\[\], float64\[\]\) from",
        ),
        (
            lambda: tk.loop(lambda c, _: c, jnp.ones(()), None, 2),
            TypeError,
            r"`body` must return a pair \(carry, y\): got float64\[\]; return \(carry, None\)",
        ),
        (
            lambda: tk.loop(lambda c, _: None, jnp.ones(()), None, 2),
            TypeError,
            "a pair .*: got None;",
        ),
        (
            lambda: tk.loop(lambda c, _: (c, "done"), jnp.ones(()), None, 2),
            TypeError,
            "`body` must return arrays or numbers: got str",
        ),
        (lambda: tk.loop(3, jnp.ones(()), None, 2), TypeError, "`body` must be a function: got 3"),
        (
            lambda: tk.loop(lambda c, _: (c, None), {"name": "a"}, None, 2),
            TypeError,
            r"`init` must have arrays or numbers as leaves: got str at init\['name'\]; let the",
        ),
        (
            lambda: tk.loop(lambda c, x: (c, x), 1.0, (jnp.ones(3), {"b": jnp.ones(4)})),
            ValueError,
            r"leading axes of one length: got xs\[0\]: 3, xs\[1\]\['b'\]: 4",
        ),
        (
            lambda: tk.loop(lambda c, x: (c, x), 1.0, jnp.ones(3), 4),
            ValueError,
            "got length=4 and 3 entries in xs; leave `length` out",
        ),
        (lambda: tk.loop(lambda c, x: (c, x), 1.0), ValueError, "`length` must be given"),
        (lambda: tk.loop(lambda c, x: (c, x), 1.0, 2.0), ValueError, "got a scalar at xs"),
        (lambda: tk.loop(lambda c, x: (c, x), 1.0, None, -1), ValueError, "negative: got -1"),
        (lambda: tk.loop(lambda c, x: (c, x), 1.0, None, 2.5), TypeError, "an int.*got 2.5"),
        (lambda: tk.loop(lambda c, x: (c, x), 1.0, None, True), TypeError, "an int.*got True"),
        (
            lambda: jax.jit(lambda n: tk.loop(lambda c, x: (c, x), 1.0, None, n))(3),
            TypeError,
            "an int, known when the loop is traced.*use tk.while_loop",
        ),
        (
            lambda: tk.loop(lambda c, x: (c, x), 1.0, None, 3, tk.control.store),
            TypeError,
            r"`gradient` must be a policy of tk.control.*: got the class store",
        ),
        (
            lambda: tk.loop(lambda c, x: (c, x), 1.0, None, 3, "store"),
            TypeError,
            "policy of tk.control, .*: got 'store'",
        ),
        (
            lambda: tk.loop(lambda c, x: (c, None), 1.0, None, 1000, checkpoint((10, 10))),
            ValueError,
            r"the number of steps, 1000: got \(10, 10\), which is 100; use \(100, 10\)",
        ),
        (lambda: checkpoint(0), ValueError, "`how` must be 'sqrt', or a positive int.*: got 0"),
        (lambda: checkpoint(()), ValueError, r"`how` must be .*: got \(\)"),
        (lambda: checkpoint((3, True)), ValueError, r"`how` must be .*: got \(3, True\)"),
        (lambda: checkpoint("log"), ValueError, "`how` must be .*: got 'log'"),
        (lambda: truncate(0), ValueError, "`k` must be a positive int: got 0"),
        (lambda: store(unroll=0), ValueError, "`unroll` must be a positive int: got 0"),
        (lambda: forward(0.5), ValueError, "`max_tangents` must be a positive int: got 0.5"),
    ],
)
def test_what_is_refused_says_what_to_do(call: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_sizes_that_a_refusal_names_are_accepted() -> None:
    body = lambda carry, _: (carry * 1.01, None)
    for sizes, length in (((100, 10), 1000), ((10, 10, 10), 1003), ((11, 10, 10), 1100)):
        assert tk.loop(body, 1.0, None, length, checkpoint(sizes))[0] > 1
    with pytest.raises(ValueError, match=r"use \(11, 10, 10\)"):
        tk.loop(body, 1.0, None, 1100, checkpoint((10, 10, 10)))


def test_too_many_tangents_are_refused_and_the_remedy_named() -> None:
    f = lambda w: jnp.sum(tk.loop(lambda c, _: (c * w, None), jnp.ones(8), None, 3, forward(7))[0])
    assert f(jnp.ones(8)) == 8
    with pytest.raises(ValueError, match=r"got 8, and each costs.*use tk\.control\.checkpoint\(\)"):
        jax.grad(f)(jnp.ones(8))


def test_policies_read_as_the_code_that_makes_them() -> None:
    for policy in (store(2), checkpoint((10, 10)), truncate(5), forward()):
        assert eval(repr(policy)) == policy
