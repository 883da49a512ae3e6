"""Loops mean what they mean in Python: each case beside the plain function."""

# The cases are written as users write.
# ruff: noqa: B007, B020, B905

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.plain_python.cases import Table, X, check
from tests.plain_python.programs import load

case = Table()


@case(X)
def loop_variable_after_the_loop(x):
    s = 0.0
    for i in range(4):
        s = s + x[0]
    return s, i


@case(X)
def zero_trips_leave_everything(x):
    i, s = 7, x[0]
    for i in range(0):
        s = s * 2
    else:
        s = s + 1
    return i, s


@case(X)
def nested_loops_share_a_variable(x):
    s = x[0]
    for i in range(3):
        for i in range(2):
            s = s * 0.9 + i
        s = s + i
    return s, i


@case(X)
def every_kind_of_range(x):
    s = x[0]
    for i in range(5, 0, -2):
        s = s * 0.5 + i
    for i in reversed(range(1, 7, 3)):
        s = s * 0.5 + i
    for i in reversed(range(3, -2, -2)):
        s = s * 0.5 + i
    for i in range(len(x)):
        s = s + x[i] * i
    return s, i


@case(X, 3)
def bounds_that_are_traced(x, k):
    s = x[0]
    for i in range(k):
        s = s * 0.5 + i
    for i in range(k, -2, -2):
        s = s * 0.5 + i
    for i in reversed(range(1, k + 4, 2)):
        s = s * 0.5 + i
    return s


@case(X, 0)
def zero_trips_at_run_time(x, k):
    i, s = 5, x[0]
    for i in range(k):
        s = s * 2
    else:
        s = s + 0.25
    return i, s


@case(X)
def enumerate_and_zip(x):
    s = 0.0
    for i, e in enumerate(x, 2):
        s += i * e
    for e, j in zip(x, range(10)):
        s += j * e
    for i, (e, g) in enumerate(zip(x, x[:2])):
        s += i * e * g
    for (i, e), g in zip(enumerate(x), reversed(x)):
        s += i * e - g
    return s, i, e, g


@case(jnp.arange(6.0).reshape(3, 2))
def rows_and_starred_targets(m):
    s = jnp.zeros(2)
    for row in m:
        s = s + row * row[0]
    for a, *rest in zip(m, m + 1, m + 2):
        s = s - a * rest[1]
    for a, b in m:
        s = s + a * b
    return s, row, rest


@case(X)
def numpy_arrays_are_iterated(x):
    s = x[0]
    for c in np.asarray([1.0, 2.0, 4.0]):
        s = s + c * x
    return s


@case(X)
def the_iterable_is_evaluated_once(x):
    n = 3
    for i in range(n):
        n = n - 1
        x = x + x[0] * i
    v = x
    for e in v:
        v = v * 0.5 + e
    return n, v


@case(X, 3)
def a_variable_iterates_over_what_it_was(x, k):
    for i, x in enumerate(x):
        k = k + x * i
    i = 3
    for i in range(i):
        k = k + i
    return x, k, i


@case(X)
def odd_iterables(x):
    s = 0.0
    for a, b in zip(*[x, x + 1]):
        s = s * 0.5 + a * b
    for a, b in list(zip(x, x)):
        s = s * 0.5 + a - b
    for i, j in itertools.product(range(2), range(2)):
        s = s + i * j
    for i in itertools.islice(range(10), 2):
        s = s + i
    for i in range(*(1, 5, 2)):
        s = s + i
    for e in x[:0]:
        s = s + e * 1000
    for e in tuple(reversed(x)):
        s = s * 0.5 + e
    for name, e in dict(zip("ab", x)).items():
        s = s + e * len(name)
    for i, e in enumerate(x, start=2):
        s = s + i * e
    for e in max([x[:1], x[:2]], key=len):
        s = s + e
    return s, i, e


@case(X)
def assigning_the_loop_variable_changes_no_iteration(x):
    s = x[0]
    for i in range(4):
        i = i * 10
        s = s + i
    return s, i


@case(X)
def break_keeps_the_loop_variable(x):
    for i in range(5):
        if x[0] * i > 0.9:
            break
    return i


@case(X)
def break_with_else(x):
    s = 0.0
    for i in range(3):
        if x[i] > 0.7:
            s += 10.0
            break
        s += x[i]
    else:
        s = -1.0
    for i in range(3):
        if x[i] > 5:
            break
    else:
        s = s * 2
    return s, i


@case(X)
def jumps_in_else_belong_to_the_loop_outside(x):
    s = 0.0
    for i in range(4):
        for j in range(3):
            if x[j] > 0.6 + 0.1 * i:
                break
        else:
            s += 1.0
            continue
        s += 0.25
    for i in range(4):
        for j in range(3):
            if x[j] > 0.7 + 0.1 * i:
                break
        else:
            break
        s += 0.125
    return s, i, j


@case(X)
def continue_skips_the_rest(x):
    s, n = 0.0, 0
    for e in x:
        if e < 0:
            continue
        n += 1
        if n > 1:
            s += 100.0
            continue
        s += e
    return s, n


@case(X)
def return_from_three_loops(x):
    for i in range(3):
        for j in range(3):
            for k in range(3):
                if x[i] + x[j] + x[k] > 1.9:
                    return i, j, k
    return -1, -1, -1


@case(-X)
def return_that_is_never_reached(x):
    for i in range(3):
        for j in range(3):
            if x[i] + x[j] > 1.9:
                return i, x
    return -1, x * 2


@case(X)
def return_in_else(x):
    for e in x:
        if e > 2:
            break
    else:
        return e
    return e * 2


@case(X)
def return_in_every_branch(x):
    if x[0] > 0.6:
        return x[0]
    elif x[1] < 0:
        if x[2] > 0:
            return x[1] * 3
        return x[1]
    else:
        return x[2]


@case(X)
def nothing_after_a_jump_runs(x):
    for i in range(2):
        break
        x = x.no_such_method()
    return x
    return x.no_such_method()


@case(X)
def while_on_traced_values(x):
    s, n = x[0], 0
    while s < 40.0:
        s, n = s * 1.7, n + 1
    while s > 1e9:
        s = s * 0.0
    return s, n


@case(X)
def while_true_with_break(x):
    n = 0
    while True:
        n += 1
        x = x * 1.5
        if jnp.sum(x) > 9:
            break
    return x, n


@case(X)
def while_with_else_and_continue(x):
    n, s = 0, x[0]
    while n < 6 and s < 50:
        n += 1
        if n % 2 == 0:
            continue
        s = s * 2 + x[2]
    else:
        s = -s
    while s < 0:
        s = s + 7
        if s > -1:
            break
    else:
        s = s + 1000
    return n, s


@case(X)
def while_on_python_values_stays_python(x):
    seen = []
    n = 3
    while n:
        seen.append(n)
        n -= 1
    while seen:
        x = x * seen.pop()
    return x


@case(X)
def while_whose_test_becomes_traced(x):
    n = 3
    while n > 0:
        n = n - x[0]
    return n


@case(X)
def while_inside_for(x):
    s = x[0]
    for i in range(3):
        n = 0
        while s > 0.2 and n < 4:
            s, n = s * 0.8, n + 1
        s = s + 0.1 * n + i
    return s, n


@case(X, 13, 0)
def countdown_and_truth_of_numbers(x, m, zero):
    n = 0
    while m:
        m = m // 2
        n += 1
    if x[0]:
        n += 100
    if zero:
        n += 1000
    if not zero:
        n += 10000
    return n


@case(X)
def fibonacci_by_tuples(x):
    a, b = x[0], x[2]
    for _ in range(6):
        a, b = b, a + b
    c = d = a
    for _ in range(2):
        c = d = d + c
    return a, b, c, d


@case(X, 5)
def collatz(x, n):
    steps = 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


@pytest.mark.parametrize("name", case.cases)
def test_as_in_python(name: str) -> None:
    check(case.cases[name])


REFUSED_BY_PYTHON = {
    "reversed(enumerate(x))": TypeError,
    "zip(x, x[:2], strict=True)": ValueError,
    "range(0, 3, 0)": ValueError,
    "range(2.5)": TypeError,
    "range(x)": TypeError,
    "enumerate(3)": TypeError,
    "zip(x, 3)": TypeError,
    "x[0]": TypeError,
    "3": TypeError,
}


@pytest.mark.parametrize("iterable", REFUSED_BY_PYTHON)
def test_what_python_refuses(iterable: str) -> None:
    source = f"def f(x):\n    for e in {iterable}:\n        x = x + 1\n    return x\n"
    f = load(source, f"refused {iterable}")
    with pytest.raises(REFUSED_BY_PYTHON[iterable]):
        f(X)
    with pytest.raises(REFUSED_BY_PYTHON[iterable]):
        jax.make_jaxpr(tk.control_flow(f))(X)
