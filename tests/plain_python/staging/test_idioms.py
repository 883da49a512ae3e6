"""Everyday ways to leave a loop, a `with` and a function; loops in branches under `vmap`."""

# The cases are written as users write.

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.plain_python.cases import Table, check

case = Table()
XS = jnp.asarray([[0.5, 5.0, 2.0], [1.0, 2.0, 3.0], [-1.0, -2.0, 7.0]])


@case(XS[0])
def a_search(xs):
    for x in xs:
        if x > 3:
            found, twice = x * x, 2 * x
            break
    else:
        found, twice = -xs[0], 0.0
    return found + twice


@case(XS[0])
def a_search_that_returns_without_a_find(xs):
    for x in xs:
        if x > 3:
            found = x * x
            break
    else:
        return -xs[0]
    return found * 2


@case(XS[0])
def a_search_in_a_search(xs):
    for x in xs:
        for y in xs:
            if x + y > 6.5:
                pair = x * y
                break
        else:
            pair = -1.0
            continue
        break
    else:
        return -5.0 * xs[0]
    return pair


@case(XS[0])
def a_search_over_a_list(xs):
    for k in [0, 1, 2]:
        if xs[k] > 3:
            found = xs[k]
            break
    else:
        found = xs[0]
    return found


@case(XS[0])
def a_search_without_an_end(xs):
    n = xs[2] ** 2 + 1
    for _ in range(30):  # `while True:` has no reverse mode
        if n > 100:
            result = n * xs[0]
            break
        n = n * 3
    else:
        result = 0.0
    return result


@case(XS[0])
def a_find_of_several_kinds_inside_with(xs):
    for i, x in enumerate(xs):
        with contextlib.nullcontext():
            if x > 3:
                best, at = {"x": x, "pair": (x * 2, xs)}, i
                break
    else:
        best, at = {"x": xs[0], "pair": (1.0, xs)}, -1
    return best["x"] * best["pair"][0] + at


@case(XS[0])
def a_return_inside_with(xs):
    with contextlib.nullcontext():
        if xs[0] > 0:
            return xs[0] * xs[1]
        y = xs[1] * 2
    return y * y


@case(XS[0])
def a_return_in_one_of_two_branches(xs):
    if xs[0] > 0.7:
        if xs[1] > 3:
            return xs[0]
        y = xs[1]
    else:
        y = xs[2] ** 2
    return y * 3


@case(XS[0])
def a_return_in_nested_loops(xs):
    s = 0.0
    for x in xs:
        if x > 6:
            return s * x
        z = x * 2
        for y in xs:
            if y + z > 9:
                return y * z + s
            q = y
        s = s + q * z
    return s


@case(XS[0])
def a_function_made_in_each_iteration(xs):
    def make(v, w):
        return lambda u, factor=w: v * u * factor

    g = make(1.0, 2.0)
    for x in xs:
        g = make(g(x) + 1, x)
    return g(2.0)


@case(XS[0])
def extremes_of_a_grown_list(xs):
    ys = []
    for x in xs:
        ys.append(x * x - 3)
    few = max(ys) - min(ys)
    return few if any(ys) and not all(y > 0 for y in ys) else -few


@case(XS[0], refusable=True)
def two_breaks_of_which_one_finds(xs):
    for x in xs:
        if x > 3:
            found = x
            break
        if x < -1:
            break
    else:
        found = 0.0
    return found


@pytest.mark.parametrize("name", case.cases)
def test_as_in_python(name: str) -> None:
    function = case.cases[name].function
    check(case.cases[name])
    if case.cases[name].refusable:
        return
    f = tk.control_flow(function)
    batched = jax.jit(jax.vmap(jax.value_and_grad(f)))(XS)
    one_by_one = [jax.value_and_grad(function)(xs) for xs in XS]
    for got, expected in zip(batched, zip(*one_by_one, strict=True), strict=True):
        np.testing.assert_allclose(got, jnp.stack(expected), rtol=1e-9)


def test_a_while_true_that_is_left_with_a_value() -> None:
    def f(x):
        while True:
            if x > 100:
                result = x * 2
                break
            x = x * 3
        return result

    for x in (1.0, 70.0, 200.0):
        np.testing.assert_allclose(jax.jit(tk.control_flow(f))(x), f(x))


STEPS = 1000


def loop_in_a_branch(x, count):
    n = 0
    if x > 0:
        while n < STEPS and (x < 0 or n < 2):
            count()
            n += 1
    return n


def loop_in_an_operand(x, count):
    def steps(n):
        while n < STEPS and (x < 0 or n < 2):
            count()
            n += 1
        return n

    return 2 if x > 0 and steps(0) > 1 else 0


def loop_in_a_loop(x, count):
    n = 0
    while x > 0 and n < 2:
        m = 0
        while m < STEPS and (n > 1 or x < 0 or m < 2):
            count()
            m += 1
        n += 1
    return n


def loop_after_a_break(x, count):
    n = 0
    for _ in range(2):
        if x < 0:
            break
        m = n
        while m < STEPS and (x < 0 or m < n + 1):
            count()
            m += 1
        n = m
    return n


@pytest.mark.parametrize(
    "function", [loop_in_a_branch, loop_in_an_operand, loop_in_a_loop, loop_after_a_break]
)
def test_a_loop_waits_for_no_element_that_does_not_take_it(function) -> None:
    """Both branches of a condition run under `vmap`: without care, the element -1 would run 1,000 steps."""
    made: list[int] = []

    def count():
        jax.debug.callback(lambda: made.append(1))

    f = tk.control_flow(function)
    got = jax.jit(jax.vmap(lambda x: f(x, count)))(jnp.asarray([1.0, -1.0]))
    jax.effects_barrier()
    np.testing.assert_array_equal(got, [2, 0])
    assert len(made) <= 6
