"""`tk.while_loop` with a bound, in every mode and order: the derivatives of a scan of fixed length with a mask.

The mask is `jax.lax.cond`, so that the steps after the end have no derivative. Under `vmap` it would be a
selection, where a step at the end may have an infinite derivative: there the lanes are differentiated one by
one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.control import checkpoint, store
from toolkit.solver import GradientDescent, Newton

BOUND = 7
POLICIES = {
    "store": store(),
    "every_third": checkpoint(3),
    "levels": checkpoint((2, 2, 2)),
}
MODES: dict[str, Callable] = {
    "forward": jax.jacfwd,
    "reverse": jax.jacrev,
    "forward_over_forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "forward_over_reverse": lambda f: jax.jacfwd(jax.jacrev(f)),
    "reverse_over_forward": lambda f: jax.jacrev(jax.jacfwd(f)),
    "reverse_over_reverse": lambda f: jax.jacrev(jax.jacrev(f)),
}
THIRD = {
    "mixed": lambda f: jax.jacrev(jax.jacfwd(jax.jacrev(f))),
    "reverse_only": lambda f: jax.jacrev(jax.jacrev(jax.jacrev(f))),
}
Loop = Callable[[Callable, Callable, Any], Any]  # (cond, body, init) -> the last carry


def _looped(policy: Any) -> Loop:
    return lambda cond, body, init: tk.while_loop(cond, body, init, BOUND, policy)


def _scanned(cond: Callable, body: Callable, init: Any) -> Any:
    step = lambda carry, _: (jax.lax.cond(cond(carry), body, lambda c: c, carry), None)
    return jax.lax.scan(step, init, None, BOUND)[0]


def _decay(run: Loop) -> Callable:
    """Closes over what is differentiated; carries an integer, a key and None; ends within the bound."""

    def fun(x: Any) -> Any:
        def body(carry: dict) -> dict:
            moved = jnp.sqrt(carry["x"] - carry["at"])  # without derivative where x comes to `at`
            return carry | {
                "x": moved * jnp.cos(x[0]),
                "at": carry["at"] * x[1],
                "n": carry["n"] + 1,
            }

        going = lambda carry: (carry["x"] - carry["at"] > 0.4) & (carry["n"] < 9)
        init = {"x": x[0] + x[1], "at": x[1] / 3, "n": 0, "key": jax.random.key(0), "none": None}
        last = run(going, body, init)
        return last["x"] ** 3 + last["at"]

    return fun


# The numbers of steps are 0, 1, 2 and more.
X = jnp.asarray([[0.1, 0.3], [0.5, 0.6], [0.9, 0.2], [1.3, 0.1]])


def _agree(got: Any, expected: Any) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12)


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    fun = _decay(_scanned)
    return jax.jit(lambda x: {m: jax.lax.map(MODES[m](fun), x) for m in MODES})(X)


@pytest.mark.parametrize(
    "name", ["store", "every_third", pytest.param("levels", marks=pytest.mark.slow)]
)
def test_every_mode_of_first_and_second_order(name: str, expected: dict[str, Any]) -> None:
    fun = _decay(_looped(POLICIES[name]))

    def derivatives(x: Any) -> tuple:
        of_lanes = lambda mode: jax.vmap(mode(fun))(x)
        return {m: of_lanes(MODES[m]) for m in MODES}, jax.lax.map(jax.hessian(fun), x)

    in_lanes, one_by_one = jax.jit(derivatives)(X)
    _agree(in_lanes, expected)
    _agree(one_by_one, expected["forward_over_reverse"])


@pytest.mark.slow
def test_third_order_and_a_gradient_outside_of_jit() -> None:
    looped, scanned = _decay(_looped(store())), _decay(_scanned)
    three = lambda fun: jax.jit(lambda x: {m: THIRD[m](fun)(x) for m in THIRD})(X[2])
    _agree(three(looped), three(scanned))
    _agree(jax.grad(looped)(X[2]), jax.grad(scanned)(X[2]))


def _over_lanes(f: Callable) -> Callable:
    return lambda x: jnp.sum(jax.vmap(f)(jnp.stack([x, 0.5 * x])) ** 2)


def _in_scan_and_branch(f: Callable) -> Callable:
    def step(carry: Any, number: Any) -> tuple:
        value = jax.lax.cond(number % 2 == 0, f, lambda x: x[1], carry)
        return carry * jnp.cos(value), value

    return lambda x: jnp.sum(jax.lax.scan(step, x, jnp.arange(3))[1])


def _in_bounded_loop(f: Callable) -> Callable:
    def nested(x: Any) -> Any:
        body = lambda c: (c[0] * (1 + f(c[0]) / 4), c[1] + 1)
        return jnp.sum(tk.while_loop(lambda c: c[1] < 2, body, (x, 0), max_steps=3)[0])

    return nested


PLACES = {
    "batch": _over_lanes,
    "scan_and_branch": _in_scan_and_branch,
    "checkpoint": lambda f: _in_scan_and_branch(jax.checkpoint(f)),
    "bounded_loop": _in_bounded_loop,
}


@pytest.mark.parametrize("place", PLACES)
def test_wherever_the_loop_stands(place: str) -> None:
    modes = ("reverse", "forward_over_reverse", "reverse_over_forward", "reverse_over_reverse")

    def derivatives(run: Loop) -> Any:
        fun = PLACES[place](_decay(run))
        return jax.jit(lambda x: {m: MODES[m](fun)(x) for m in modes})(jnp.asarray([0.7, 0.2]))

    _agree(derivatives(_looped(store())), derivatives(_scanned))


ADJOINTS = {
    "implicit": (tk.adjoint.Implicit(), ("forward", "reverse", "reverse_over_reverse")),
    "unroll": (tk.adjoint.Unroll(), ("reverse", "forward_over_reverse", "reverse_over_reverse")),
    "one_step": (tk.adjoint.OneStep(), ("forward", "reverse")),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "argmin") for name in ADJOINTS),
        ("implicit", "root"),
        pytest.param("one_step", "root", marks=pytest.mark.slow),
        pytest.param("unroll", "root", marks=pytest.mark.slow),
    ],
)
def test_inside_the_function_of_a_solve(name: str, kind: str) -> None:
    adjoint, modes = ADJOINTS[name]

    def solved(run: Loop) -> Callable:
        def slow(y: Any) -> Any:
            halved = lambda c: (jnp.sin(c[0]) / 2 + 0.6 * c[0], c[1] + 1)
            return run(lambda c: c[1] < 4, halved, (y, 0))[0]

        if kind == "root":
            solve = tk.root(lambda y, t: slow(y) + y - t, Newton(8, 1e-12), adjoint=adjoint)
        else:
            fun = lambda y, t: 0.5 * jnp.sum((slow(y) - t) ** 2) + 0.1 * jnp.sum(y**2)
            solve = tk.argmin(fun, GradientDescent(0.5, 60), adjoint=adjoint)
        return lambda t: jnp.sum(solve(jnp.full(2, 0.3), t).value ** 2)

    def derivatives(run: Loop) -> Any:
        fun = solved(run)
        return jax.jit(lambda t: {m: MODES[m](fun)(t) for m in modes})(jnp.asarray([0.2, 0.4]))

    _agree(derivatives(_looped(store())), derivatives(_scanned))


@jax.custom_jvp
def straight_through(x: Any) -> Any:
    return jnp.round(8 * x) / 8


straight_through.defjvp(lambda x, dot: (straight_through(*x), dot[0] * jnp.cos(x[0])))


@jax.custom_vjp
def other_slope(x: Any) -> Any:
    return jnp.sin(x)


other_slope.defvjp(lambda x: (jnp.sin(x), x), lambda x, bar: (bar * jnp.exp(-(x**2)),))


@jax.custom_vjp
def clipped(x: Any) -> Any:
    return jnp.sin(x)


clipped.defvjp(lambda x: (jnp.sin(x), x), lambda x, bar: (jnp.clip(bar * x, -0.3, 0.3),))


def _ruled(rule: Callable, run: Loop) -> Callable:
    body = lambda c: (jnp.sin(1.1 * rule(c[0])) + 0.1 * c[0] ** 2, c[1] + 1)
    return lambda x: jnp.sum(run(lambda c: c[1] < 3, body, (x, 0))[0] ** 3)


@pytest.mark.parametrize("rule", [straight_through, other_slope, clipped])
def test_a_first_derivative_uses_up_the_rules_of_the_body(rule: Any) -> None:
    both = isinstance(rule, jax.custom_jvp)
    modes = MODES if both else ("reverse", "forward_over_reverse", "reverse_over_reverse")
    x = jnp.asarray([0.3, 1.2, 0.7])

    def derivatives(run: Loop) -> Any:
        return jax.jit(lambda x: {m: MODES[m](_ruled(rule, run))(x) for m in modes})(x)

    _agree(derivatives(_looped(checkpoint(2))), derivatives(_scanned))


def test_a_backward_pass_is_transposed_for_forward_mode_or_refused_by_name() -> None:
    x = jnp.asarray([0.3, 1.2, 0.7])
    fun = _ruled(other_slope, _looped(store()))
    _agree(jax.jit(jax.jacfwd(fun))(x), jax.jit(jax.grad(fun))(x))
    for mode in ("forward", "forward_over_forward", "reverse_over_forward"):
        with pytest.raises(TypeError, match=r"store\(\) has no forward mode.*`clipped`.*; give it"):
            jax.jit(MODES[mode](_ruled(clipped, _looped(store()))))(x)


def test_forward_mode_stores_no_carries() -> None:
    def push(x: jax.Array) -> jax.Array:
        body = lambda c: (jnp.sin(c[0]), c[1] + 1)
        run = lambda x: tk.while_loop(lambda c: c[1] < 10, body, (x, 0), 1000)[0]
        return jax.jvp(run, (x,), (x,))[1]

    compiled = jax.jit(push).lower(jnp.ones(1000)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 10 * 8000
