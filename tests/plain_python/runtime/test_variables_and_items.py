"""What changes in place, or hides, is done as often as Python does it, or refused: never once."""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict, defaultdict
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.plain_python.cases import Table, X, check

case = Table()


class Meter:
    """An object that JAX knows nothing of."""

    def __init__(self) -> None:
        self.total = 0
        self.items = {}

    def add(self, value) -> None:
        self.total = self.total + value

    def __setitem__(self, key, value) -> None:
        self.items[key] = value

    def __getitem__(self, key):
        return self.items[key]

    def __iadd__(self, value):
        self.total += value
        return self


@dataclass
class Pair:
    """An object that is no pytree."""

    a: object


@case(X, refusable=True)
def refusals_are_not_errors_of_python(x):
    s = 0.0
    try:
        for i in range(3):
            if x[i] < -5:
                raise ValueError("small")
            s = s + x[i]
    except Exception:
        s = -1.0
    return s


@case(X, refusable=True)
def suppressed(x):
    s = 0.0
    with contextlib.suppress(Exception):
        for i in range(3):
            if x[i] < -5:
                raise ValueError("small")
            s = s + x[i]
    return s


@case(X, refusable=True)
def a_possibly_undefined_name_is_no_name_error(x):
    try:
        if x[0] > 0:
            y = 1.0
        z = y
    except NameError:
        z = 5.0
    return z


@case(X, refusable=True)
def an_object_counts(x):
    meter = Meter()
    for _ in range(3):
        meter.add(2)
    return meter.total * x[0]


@case(X, refusable=True)
def an_object_counts_in_a_branch(x):
    meter = Meter()
    if x[0] > 0:
        meter.add(2)
    else:
        meter.add(5)
    return meter.total * x[0]


@case(X, refusable=True)
def an_object_takes_items(x):
    meter = Meter()
    meter["n"] = 0
    for _ in range(3):
        meter["n"] = meter["n"] + 1
    return meter["n"] * x[0]


@case(X, refusable=True)
def an_object_is_augmented(x):
    meter = Meter()
    for _ in range(3):
        meter += 1
    return meter.total * x[0]


@case(X)
def other_kinds_of_dict(x):
    d, n = OrderedDict(a=0.0), defaultdict(float)
    e = d
    for i in range(3):
        d["a"] = d["a"] + x[i]
        n["b"] = i
    return e["a"], dict(n)


@case(X, refusable=True)
def an_iterator_moves_on(x):
    numbers = iter([1.0, 2.0, 3.0])
    s = 0.0
    for i in range(3):
        s = s + x[i] * sum(numbers)
    return s


@case(X, refusable=True)
def a_number_is_an_int(x):
    s = 0.0
    for i in range(3):
        s = s + (x[i] if isinstance(i, int) else 100.0)
    return s


@case(X, refusable=True)
def text_of_an_index(x):
    s = 0.0
    for i in range(3):
        s = s + len(f"{i}") + len(str(i))
    return s


@case(X, refusable=True)
def a_numpy_array_is_filled(x):
    a = np.zeros(3)
    s = 0.0
    for i in range(3):
        np.add(a, 1, out=a)
        s = s + a[0] * x[i]
    return s


@case(X, refusable=True)
def an_object_made_in_the_loop(x):
    for i in range(3):
        pair = Pair(x[i])
    return pair.a


@case(X, refusable=True)
def a_function_made_in_the_loop(x):
    for i in range(3):
        times = functools.partial(jnp.multiply, x[i])
    return times(2.0)


@case(X)
def the_sign_of_zero(x):
    y = 0.0 if x[0] > 0 else -0.0
    z = -0.0 if x[0] > 0 else 0.0
    return jnp.copysign(1.0, y), jnp.copysign(1.0, z)


@case(X, refusable=True)
def one_of_two_rows(x):
    grid = [[0.0, 0.0], [0.0, 0.0]]
    row = grid[0] if x[0] > 0 else grid[1]
    row[0] = 5.0
    return grid


@case(X)
def the_better_of_two_dicts(x):
    w = {"a": x}
    best, kept = jnp.inf, w
    for _ in range(4):
        loss = jnp.sum((w["a"] - 0.2) ** 2)
        if loss < best:
            best, kept = loss, w
        w = {"a": w["a"] * 0.5}
    return kept, best


@case(X)
def a_step_is_taken_or_not(x):
    layers = [x, x * 2]
    for _ in range(3):
        tried = [layer * 0.5 for layer in layers]
        if jnp.sum(tried[0]) > 0.2:
            layers = tried
    return layers


@case(X)
def membership_any_and_all(x):
    s = 0.0
    for i in range(4):
        if i in (0, 2) or i not in [0, 1, 2]:
            s = s + 1
        if any([x[0] > i, x[1] > i]) and all(v < 2 for v in [x[0], x[1]]):
            s = s + 10
        if any(x > i) and not all(x > 0):
            s = s + (i + 1) ** -1
    return s


@case(X)
def powers_of_two(x):
    s = 0.0
    for i in range(6):
        s = s + 2**i * x[0] + i**2
    return s


@case(X)
def lists_extended_by_name(x):
    ys, more = [], [x[0], x[1]]
    for i in range(3):
        ys += more
        ys.append(x[0] * i)
    return jnp.stack(ys)


@case(X)
def a_search_without_an_end(x):
    s, n = x[0], 0
    while True:
        s = s * 1.5
        n += 1
        if s > 10:
            return s, n


@case(X)
def a_return_in_a_loop_or_after_it(x):
    for i in range(3):
        if x[i] < 0:
            return i
    else:
        return -1


@case(X)
def each_part_of_a_comparison_is_asked_once(x):
    n = 0

    def ask(value):
        nonlocal n
        n += 1
        return value

    first = ask(x[0]) < ask(x[1]) < ask(x[2])
    return first, n


@case(X, refusable=True)
def the_test_of_a_while_counts(x):
    n = 0
    s = x[0]

    def ask(value):
        nonlocal n
        n += 1
        return value

    while s < 3 and ask(s) > 0:
        s = s * 2
    return n, s


@pytest.mark.parametrize("name", case.cases)
def test_as_in_python(name: str) -> None:
    check(case.cases[name])


def test_a_refusal_that_is_caught_leaves_in_the_end() -> None:
    f = tk.control_flow(suppressed)
    with pytest.raises(tk.control.ControlFlowError, match="checkify"):
        jax.jit(f)(X)


def test_a_known_first_test_compiles_a_while_once() -> None:
    def settle(x):
        change, n = jnp.inf, 0
        while change > 1e-3 and n < 50:
            new = jnp.cos(x)
            change = jnp.max(jnp.abs(new - x))
            x = new
            n += 1
        return x, n

    def read_after(x):
        change, n = jnp.inf, 0
        while change > 1e-3 and n < 50:
            new = jnp.cos(x)
            change = jnp.max(jnp.abs(new - x))
            x = new
            n += 1
        return new, n

    for function, bodies in ((settle, 1), (read_after, 2)):  # the first iteration defines `new`
        f = tk.control_flow(function)
        assert str(jax.make_jaxpr(f)(X)).count(" cos ") == bodies
        np.testing.assert_allclose(jax.jit(f)(X)[0], function(X)[0], rtol=1e-12)


def test_an_object_of_the_first_iteration_is_kept() -> None:
    @tk.control_flow
    def f(x):
        first = None
        s = 0.0
        for i in range(3):
            if first is None:
                first = Pair(x[0])
            s = s + first.a * x[i]
        return s, first.a

    s, kept = jax.jit(f)(X)
    np.testing.assert_allclose((s, kept), (X[0] * jnp.sum(X), X[0]), rtol=1e-12)
