"""Conditions, and the statements around them, mean what they mean in Python."""

# The cases are written as users write.
# ruff: noqa: B007, F841, F842, SIM222

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import toolkit as tk
from tests.plain_python.cases import Table, X, check

case = Table()


@case(X, 3)
def nested_ifs_in_loops(x, k):
    s, odd = 0.0, 0
    for i in range(5):
        if i % 2 == 1:
            odd += 1
            if x[i % 3] > 0:
                s += x[i % 3]
            elif i == k:
                s -= 5.0
            else:
                pass
        elif i == 4:
            s *= 2.0
    return s, odd


@case(X)
def python_conditions_stay_python(x):
    if x.shape == (4,):
        x = x.no_such_method()
    mode = "a" if x.ndim == 1 else x.no_such_method()
    return x * 2 if mode == "a" else x.no_such_method()


@case(X)
def branches_may_differ_in_what_is_not_read(x):
    if x[0] > 0:
        y, z = x, "text"
        x = x + y
    else:
        y, w = (x, x), None
        x = x - y[0]
    return x


@case(X)
def a_size_one_array_is_a_condition(x):
    if x[:1] > 0:
        return x
    return -x


@case(X, 2)
def conditional_expressions_nest(x, k):
    a = x[0] if k > 2 else (x[1] if k > 1 else x[2])
    b = (x if k > 1 else -x) * (2 if k > 5 else 3)
    return a, b, [1, k][0] if k else 7


@case(X, 0, 4)
def and_or_give_an_operand(x, zero, four):
    return (
        zero and four,
        zero or four,
        four and zero,
        four or zero,
        x[0] and x[1],
        zero or zero or four,
    )


@case(X, 0)
def and_or_not_as_conditions(x, k):
    n = 0
    if (x[0] > 0 and x[1] > 0) or x[2] > 0:
        n += 1
    if not (x[0] > 0 and not x[1] > 0):
        n += 10
    if k or not x[0] > 0:
        n += 100
    flag = x[0] > 1
    flag = flag or x[2] > 0.7
    return n, flag, not flag, flag and k == 0


@case(X)
def concrete_operands_still_short_circuit(x):
    return (None is not None and x.nothing) or (
        True or x.nothing
    ), x if True or x.nothing else x.nothing


@case(X)
def conditions_in_comprehensions_and_lambdas(x):
    size = lambda y: y if y > 0 else -y
    clipped = [e if e > 0 else 0.0 for e in x]
    for i in range(2):
        x = x * size(x[1]) + sum(i if e > 0.6 and i < 2 else e for e in x)
    return clipped, x


@case(X)
def conditions_guard_what_they_stand_before(x):
    y = jnp.sqrt(x[1]) if x[1] > 0 else 0.0
    n = 0
    for i in range(5):
        if i < 3 and x[i] > 0:
            n += 1
        d = None if i is None else i
    return y, n, d


@case(X)
def chained_comparisons(x):
    a = 0 < x[0] < x[2] <= 0.8
    b = x[1] < x[0] > 0.6
    n = 0
    for i in range(5):
        if 0 < i <= 3 != i:
            n += i
    return a, b, n


@case(X)
def the_middle_of_a_chain_is_evaluated_once(x):
    calls = []

    def middle():
        calls.append(1)
        return x[0]

    r = x[1] < middle() < x[2]
    return r, len(calls)


@case(X)
def walrus(x):
    if (y := x[0] * 2) > 0.5:
        x = x + y
    for i in range(3):
        x = x + (z := x[0] * i)
    inside = [w := e * 2 for e in (1.0, 2.0)]
    return x, y, z, w, inside


@case(X, refusable=True)
def walrus_in_a_while_test(x):
    n = 0
    while (y := x[0] * n) < 2:
        n += 1
    return y, n


@case(X)
def comprehensions_have_their_own_scope(x):
    i, s = 5, x[0]
    for j in range(2):
        squares = [i * i for i in range(3)]
        s = s + sum(squares) + sum(e * j for e in x) + i
    table = {name: x[0] * i for i, name in enumerate("ab")}
    return i, s, table, {k: v for k, v in table.items() if k == "a"}


@case(X)
def annotations_and_docstrings(x):
    """A docstring."""
    s: float = 0.0
    t: int
    for i in range(3):
        "not a docstring"
        u: jax.Array = x[i]
        s += u
        ...
    return s


@case(X)
def python_containers_run_as_python(x):
    layers = [(2.0, jnp.tanh), (3.0, jnp.sin)]
    names = []
    for scale, act in layers:
        x = act(scale * x)
        names.append(act.__name__)
    total = 0.0
    for name, value in {"a": x, "b": 2 * x}.items():
        total = total + value * len(name)
    for i in tk.control.unroll(range(3)):
        total = total * (1.0, 2.0, 3.0)[i]
    for e in (v for v in (1.0, 2.0)):
        total = total + e
    assert names == ["tanh", "sin"]
    return total, i, e


@case(X)
def break_in_a_python_loop(x):
    for c in [1.0, 2.0, 3.0]:
        if x[0] * c > 0.9:
            break
        x = x + c
    else:
        x = x * 100
    return x, c


@case(X)
def match_on_python_values(x):
    for command in (("scale", 2.0), ("shift", 1.0, 3.0), "stop"):
        match command:
            case ("scale", by):
                x = x * by
            case ("shift", by, *rest) if rest:
                x = x + by * rest[0]
            case _:
                x = -x
    return x, by


@case(X)
def match_inside_a_staged_loop(x):
    pair = (x, 2.0)
    for i in range(3):
        match pair:
            case (v, c):
                pair = (v * c + i, c)
    return pair


@case(X)
def try_runs_as_python(x):
    s = x[0]
    for i in range(3):
        try:
            s = s + {"a": 1.0}["b"]
        except KeyError as error:
            s = s + len(error.args)
        else:
            s = s * 1000
        finally:
            s = s * 0.5
    return s


@case(X)
def with_statements(x):
    from contextlib import nullcontext, suppress

    for i in range(3):
        with jax.named_scope("inner"), nullcontext(2.0) as two:
            x = x * two + i
            if x[0] > 3:
                break
    with suppress(KeyError):
        x = x + 1
        {}["missing"]
        x = x.no_such_method()
    return x, i


@case(X, refusable=True)
def jumps_inside_try(x):
    for i in range(4):
        try:
            if x[0] * i > 0.9:
                break
        finally:
            x = x + 1
    return x, i


@case(X, refusable=True)
def targets_that_are_places(x):
    d = {"k": 0}
    for d["k"] in range(3):
        x = x + d["k"]
    return x, d["k"]


@case(X, refusable=True)
def del_of_a_name(x):
    for i in range(3):
        y = x * i
        x = x + y
        del y
    return x


@case(X, refusable=True)
def asserts_on_shapes(x):
    for i in range(3):
        assert x.shape == (3,), "shape"
        x = x + i
    return x


@pytest.mark.parametrize("name", case.cases)
def test_as_in_python(name: str) -> None:
    check(case.cases[name])
