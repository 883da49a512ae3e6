"""Lists that grow, and what becomes of them afterwards; arrays written in place."""

# The cases are written as users write.
# ruff: noqa: B007, C416

from __future__ import annotations

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.plain_python.cases import Table, X, check

case = Table()


def length(ys):
    assert type(ys) is list
    return len(ys)


@case(X)
def a_grown_list_is_a_list(x):
    ys = []
    for i in range(3):
        ys.append(x[i] * 2)
    a, b, c = ys
    copy = [*ys, a, c]
    joined = ys + [b] * 2
    tree = jax.tree.map(lambda y: y + 1, ys)
    return length(ys), length(copy), joined, tree, tuple(ys), ys.copy(), isinstance(ys, list), ys


@case(X)
def a_grown_list_in_closures(x):
    ys = []

    def last():
        return ys[-1], len(ys), type(ys) is list

    for i in range(3):
        ys.append(x[i] * 2)
    peek = lambda: sum(ys) + jnp.stack(ys)
    return last(), peek(), [y for y in ys], {i: y for i, y in enumerate(ys)}, sum(y for y in ys)


@case(X)
def a_grown_list_is_used_in_later_blocks(x):
    ys, total = [], 0.0
    for i in range(3):
        ys.append(x[i] * 2)
    if x[0] > 0:
        total = total + ys[0]
    for i in range(2):
        total = total + ys[1] * i + jnp.sum(jnp.stack(ys))
    for y in ys:
        total = total * 0.5 + y
    for i, (y, z) in enumerate(zip(ys, reversed(ys), strict=True)):
        total = total + i * y * z
    while total < 5:
        total = total + 1 + jnp.stack(ys)[0]
    return total


@case(X)
def a_grown_list_grows_and_changes_again(x):
    ys = [x[0]]
    for i in range(2):
        ys.append(x[i])
    ys.append(x[2] * 5)
    ys[1] = x[1] * 7
    for i in range(2):
        ys.append(x[i] + 1)
    ys += [x[0]]
    ys.insert(0, ys.pop())
    return ys


@case(X)
def a_grown_list_inside_containers(x):
    ys = []
    for i in range(2):
        ys.append(x * i)
    d = {"ys": ys, "pair": (ys, 1)}
    ys.append(x)
    rows = []
    for j in range(2):
        rows.append(ys[0] + j)
    return d, d["pair"][0] is d["ys"], rows


@case(X)
def extended_and_augmented(x):
    ys, zs = [], []
    for i in range(3):
        ys.extend([x[i], x[i] + 1])
        zs += [x * i]
    return ys, zs


@case(X)
def appended_twice_with_two_types(x):
    ys = []
    for i in range(2):
        ys.append(x[i])
        ys.append({"v": x * i})
    return ys


@case(X)
def appended_from_an_inner_function(x):
    ys = []

    def keep(y):
        ys.append(y)

    keep(x[0])
    for y in [x[1], x[2]]:
        keep(y * 2)
    return ys


@case(X, refusable=True)
def appended_from_an_inner_function_in_a_staged_loop(x):
    ys = []

    def keep(y):
        ys.append(y)

    for i in range(3):
        keep(x[i])
    return ys


@case(X, refusable=True)
def appended_by_a_bound_method(x):
    ys = []
    add = ys.append
    for i in range(3):
        add(x[i])
    return ys


@case(X, refusable=True)
def an_alias_sees_the_list_grow(x):
    ys = zs = []
    for i in range(3):
        ys.append(x[i])
    return len(zs), len(ys)


@case(X, refusable=True)
def a_list_in_a_dict_grows(x):
    d = {"ys": []}
    for i in range(3):
        d["ys"].append(x[i])
    return d


@case(X, refusable=True)
def a_list_is_read_while_it_grows(x):
    zs = [x]
    for i in range(3):
        zs.append(zs[-1] * 0.5 + i)
    return zs


@case(X, refusable=True)
def a_list_is_bound_anew_in_each_iteration(x):
    ys = []
    for i in range(3):
        ys = ys + [x[i]]
    return ys


@case(X, refusable=True)
def a_list_is_changed_in_the_middle(x):
    ys = [x[0], x[1]]
    for i in range(3):
        ys[0] = ys[1] + i
        ys[-1] += 1.0
    return ys


@case(X, refusable=True)
def a_queue_of_fixed_length(x):
    q = [x[0], x[1], x[2]]
    for i in range(4):
        q.append(q.pop(0) * 0.5 + i)
    return q


@case(X, refusable=True)
def a_deque(x):
    q = deque([x[0], x[1]], maxlen=2)
    for i in range(3):
        q.append(x[i])
    return list(q)


@case(X, refusable=True)
def a_set_counts(x):
    seen = set()
    for i in range(3):
        seen.add(len(seen))
    return len(seen), x


@case(X, refusable=True)
def a_list_indexed_by_the_loop_variable(x):
    scales = [1.0, 2.0, 3.0]
    for i in range(3):
        x = x * scales[i]
    return x


@case(X, refusable=True)
def a_list_appended_on_a_condition_of_python(x):
    ys = []
    for i in tk.control.unroll(range(4)):
        if i % 2:
            ys.append(x * i)
    return ys


def swapped(x):
    b = np.array(x)
    for i in range(2):
        b[i], b[i + 1] = b[i + 1], b[i]
    (b[0], c), b[2] = (b[2], 5.0), b[0]
    return b, c


@case(X, plain=swapped)
def items_change_places(b):
    for i in range(2):
        b[i], b[i + 1] = b[i + 1], b[i]
    (b[0], c), b[2] = (b[2], 5.0), b[0]
    return b, c


def counted(x):
    b = np.array(x)
    for i in range(2):
        b[np.array([0, 0, 2])] += 1.0
        b[b > 1] = 0.5
        b[..., 1] -= i
    return b


@case(X, plain=counted)
def items_of_an_index_array(b):
    for i in range(2):
        b[jnp.array([0, 0, 2])] += 1.0
        b[b > 1] = 0.5
        b[..., 1] -= i
    return b


def from_inner(x):
    b = np.array(x)

    def write(i, value):
        b[i] = value

    write(0, 5.0)
    return b


@case(X, plain=from_inner, refusable=True)
def an_inner_function_writes(b):
    def write(i, value):
        b[i] = value

    write(0, 5.0)
    return b


@case(np.array([1.0, 2.0]), refusable=True)
def an_array_of_numpy_of_its_own(x):
    b = np.zeros(2)
    for i in range(2):
        b[i] = 1.0
        b += 1.0
    return b


@pytest.mark.parametrize("name", case.cases)
def test_as_in_python(name: str) -> None:
    check(case.cases[name])


def test_a_caller_sees_what_happens_to_its_list() -> None:
    @tk.control_flow
    def grow(ys, x):
        for i in range(2):
            ys.append(x[i])
        ys[0] = x[2]

    mine = [X[1]]
    try:
        grow(mine, X)
    except tk.control.ControlFlowError:
        return  # refused is as good
    assert type(mine) is list
    np.testing.assert_allclose(mine, [X[2], X[0], X[1]])
