"""Python's integers never wrap: a staged loop in which they would is refused, and no other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.plain_python.cases import Function


def factorial(n):
    product = 1
    for i in range(1, n + 1):
        product *= i
    return product


def fibonacci(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def nested_products(n):
    product = 1
    for _ in range(n):
        for j in range(1, 6):
            product *= j
    return product


def congruential(n):
    seed = 1
    for _ in range(n):
        seed = (seed * 75 + 74) % 65537
    return seed


def sum_of_squares(n):
    total = 0
    for i in range(n):
        total += i * i
    return total


def down_and_up(n):
    k = 0
    for i in range(n):
        k = k - 3 if i % 2 else k + 3
    return k


def shifted(n):
    k = 1
    for _ in range(n):
        k = k << 1
    return k


def powers(n):
    k = 0
    for i in range(n):
        k += (i - 3) ** 3 // 2
    return k


def triangles(n):
    k = step = 0
    for _ in range(n):
        step = step + 1
        k += step
    return k


def odd_powers(n):
    b = c = 1000
    for _ in range(6):
        for _ in range(n, -2, -1):
            k = 0
            while k < 6:
                k += 1
                b = b ** (b & 1)
                b *= 3 ^ c
        c = b - 10
    return b


FITS = [
    (factorial, 12), (fibonacci, 45), (nested_products, 2), (congruential, 2000),
    (triangles, 4000), (sum_of_squares, 1000), (down_and_up, 5000), (shifted, 30), (powers, 40),
]  # fmt: skip
WRAPS = [
    (factorial, 13), (fibonacci, 48), (nested_products, 6), (sum_of_squares, 3000), (shifted, 31),
    (powers, 3000), (odd_powers, 4),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _in_32_bits():
    with jax.enable_x64(False):
        yield


@pytest.mark.parametrize(("function", "n"), FITS)
def test_what_fits_is_exact(function: Function, n: int) -> None:
    assert int(tk.control_flow(function)(n)) == function(n)


@pytest.mark.parametrize(("function", "n"), WRAPS)
def test_what_would_wrap_is_refused(function: Function, n: int) -> None:
    assert abs(function(n)) >= 2**31
    with pytest.raises(tk.control.ControlFlowError, match=r"(?s)in .*grows to .*int32.*jnp.int32"):
        tk.control_flow(function)(n)


def test_what_is_too_long_to_be_followed_one_by_one_is_bounded() -> None:
    assert int(tk.control_flow(triangles)(40_000)) == triangles(40_000)
    with pytest.raises(tk.control.ControlFlowError, match="grows to"):
        tk.control_flow(triangles)(100_000)


def test_a_power_of_pythons_integers_is_one() -> None:
    """JAX makes an array's integer of it, which may wrap."""

    @tk.control_flow
    def power(k, n):
        return k**n, 2**n, pow(k, n), np.int32(2) ** n, jnp.int32(2) ** n

    made = jax.eval_shape(power, 3, 4)
    assert [one.weak_type for one in made] == [True, True, True, False, False]


def test_arrays_are_jax_integers_from_the_start() -> None:
    @tk.control_flow
    def shifted(k, n: int):
        for _ in range(n):
            k = k * 2
        return k

    assert shifted(jnp.int32(1), 40) == 0  # as in JAX


def test_a_while_that_may_double_for_ever_is_refused() -> None:
    @tk.control_flow
    def double(x):
        k = 1
        while k < x:
            k = k * 2
        return k

    with pytest.raises(tk.control.ControlFlowError, match="grows"):
        double(jnp.float32(10))


def test_a_number_that_has_no_place_is_refused() -> None:
    def f(x):
        n = 2**40
        for _ in range(3):
            n = n + 1
        return n * x

    with pytest.raises(tk.control.ControlFlowError, match="too large for JAX's int32"):
        tk.control_flow(f)(1.0)


def test_a_count_is_not_suspected() -> None:
    @tk.control_flow
    def halvings(x):
        k = 0
        while x > 1:
            x, k = x / 2, k + 1
        return k

    assert halvings(jnp.float32(1000)) == 10


def test_64_bits_hold_more() -> None:
    with jax.enable_x64(True):
        assert int(tk.control_flow(factorial)(20)) == factorial(20)
        with pytest.raises(tk.control.ControlFlowError, match="int64"):
            tk.control_flow(factorial)(21)
