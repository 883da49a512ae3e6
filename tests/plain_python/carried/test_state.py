"""What loops carry: numbers that change type, lists that grow, arrays written in place, dicts, optimizer states."""

# The cases are written as users write.
# ruff: noqa: B007, F821, F841

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toolkit as tk
from tests.plain_python.cases import Table, X, check

case = Table()
BF16 = jnp.asarray([0.5, -0.25], jnp.bfloat16)
F32 = jnp.asarray([0.5, -0.25], jnp.float32)
I8 = jnp.asarray([1, -2], jnp.int8)


class Moments(NamedTuple):
    mean: Any
    count: Any


@case(X)
def zero_becomes_a_number_or_a_vector(x):
    s = 0
    for e in x:
        s = s + e
    v = 0
    for i in range(3):
        v = v + x * i
    t = 1
    for _ in range(2):
        t /= 2
    return s, v, t


@case(X)
def a_sum_of_a_number_is_not_that_of_a_vector(x):
    s, first = 0.0, 0.0
    for i in range(3):
        first = first + jnp.sum(s)
        s = s + x
    return s, first


@case(X)
def none_until_the_first(x):
    best = None
    for e in x:
        if best is None or e > best:
            best = e
    last = None
    for e in x:
        last = (e, x) if last is None else (last[0] + e, last[1] * e)
    return best, last


@case(X)
def names_born_in_the_loop(x):
    for i in range(3):
        t = x * i
        u = t + 1
        if i > 0:
            t = t - prev
        prev = u
    return t, u, prev


@case(X)
def one_name_with_two_types(x):
    for i in range(2):
        t = x[0]
        s = t * 2
        t = x * s
    for i in range(2):
        t = i
    return t, s


@case(X, 2)
def integers_floor_as_in_python(x, k):
    a, h = -7, 17
    for i in range(1, 4):
        a = a // 2 * k + i
        h = (h * 1103515245 + 12345) % 2**31
    return a, a % 5, -a % 3, h, h & 7 | 16, h >> 3, k**3, divmod(-7, k)


@case(X)
def flags_and_counters(x):
    found, n, parity = False, 0, False
    some = x[0] > 5
    for e in x:
        found = found or e > 0.7
        n += e > 0
        parity ^= True
        some |= e < 0
    return found, n, parity, some


@case(X)
def a_true_that_counts(x):
    n = True
    for _ in range(3):
        n += 1
    return n


@case(BF16, F32, I8)
def numbers_of_python_do_not_widen_arrays(b, f, n):
    s, t, scale = 0.0, 0, 1
    for i in range(3):
        b = b * 0.5 + i
        f = f * i + s
        n = n + i
        s = s + 0.5
        scale = scale * 2
    for i in range(2):
        t = t + b * s * scale + i / 2
    return b, f, n, t


@case(BF16)
def zero_becomes_bfloat16(b):
    s = 0.0
    for e in b:
        s = s + e
    best = -float("inf")
    for e in b:
        best = jnp.maximum(best, e)
    return s, best


@case(X)
def complex_numbers(x):
    z = 0
    for e in x:
        z = z * 1j + e
    return z, abs(z)


@case(X)
def lists_grow(x):
    ys, zs = [], [x]
    for i in range(3):
        ys.append(x[i] * 2)
        zs.append(zs[-1] + i)
    return jnp.stack(ys), jnp.asarray(ys), ys[-1], ys[0], len(ys), sum(ys), jnp.stack(zs), len(zs)


@case(X)
def lists_of_trees(x):
    history = []
    for i in range(3):
        x = x * 0.5
        history.append({"x": x, "i": (i, x[0])})
    total = 0.0
    for entry in history:
        total = total + entry["i"][1] * entry["x"]
    return total, history[-1]["i"][0], [h["i"][1] for h in history], len(history)


@case(X)
def lists_in_nested_loops(x):
    rows, flat = [], []
    for i in range(2):
        row = []
        for j in range(3):
            row.append(x[j] * i)
            flat.append(x[j] + i)
        rows.append(jnp.stack(row))
    return jnp.stack(rows), jnp.stack(flat), len(flat), len(row)


@case(X)
def lists_of_no_steps(x):
    ys = []
    for _ in range(0):
        ys.append(x)
    zs = [x]
    for y in ys:
        zs.append(y)
    return len(ys), len(zs), zs[0]


@case(X, refusable=True)
def two_names_of_a_dict(x):
    d = {"a": x[0]}
    e = d
    for i in range(3):
        d["a"] = d["a"] + i
    return d["a"], e["a"]


@case(X, refusable=True)
def a_dict_inside_a_dict(x):
    inner = {"w": x}
    d = {"inner": inner, "n": 0}
    for i in range(3):
        d["inner"]["w"] = d["inner"]["w"] * 0.5 + i
        d["n"] += 1
    return d, inner


@case(X, refusable=True)
def two_names_of_a_dict_in_a_condition(x):
    d = {"a": x[0]}
    e = d
    if x[0] > 0:
        d["a"] = 5.0
    return d["a"], e["a"]


@case(X, refusable=True)
def a_function_changes_the_dict_of_its_caller(x):
    def bump(d):
        d["a"] = d["a"] + 1

    d = {"a": x[0]}
    for _ in range(3):
        bump(d)
    return d


@case(X)
def dicts_change_and_gain_keys(x):
    d = {"a": x, "n": 0}
    for i in range(3):
        d["a"] = d["a"] * 0.5
        d["n"] += i
        d["last"] = d["a"][0]
        d.update(n=d["n"] + 1)
    e = {}
    for i in range(2):
        e = {**e, "k": i, "x": x * i} | {"z": 1.0}
    return d, e


@case(X, jnp.int32(2), jnp.float32(3.0))
def widths_of_other_arrays(x, k, c):
    n, s, t = 0, jnp.float32(0), np.float32(1)
    m, u = np.int64(0), np.zeros(())
    for i in range(3):
        n = n + k
        s = s + x[0]
        t = t * c
        m = m + i
        u = u + x[i]
    return n, s, t, m, u


@jax.tree_util.register_dataclass
@dataclass
class Point:
    position: Any
    speed: Any


@case(X)
def dataclasses_are_replaced(x):
    p = Point(x, 0.0)
    for i in range(3):
        p = replace(p, position=p.position + p.speed, speed=p.speed + x[0])
        if p.speed > 1:
            p = Point(-p.position, p.speed)
    return p


@case(X)
def tuples_and_named_tuples(x):
    m, pair = Moments(x * 0, 0), (x, {"n": 0})
    for i in range(3):
        m = m._replace(mean=m.mean + (x * i - m.mean) / (m.count + 1), count=m.count + 1)
        v, d = pair
        pair = (v * 0.5, {"n": d["n"] + i})
    return m, pair


@case(X)
def optimizer_states(x):
    optimizer = optax.chain(optax.clip(1.0), optax.adam(0.1))
    params = {"w": x, "b": jnp.zeros(())}
    state = optimizer.init(params)
    loss = lambda p: jnp.sum((p["w"] * 2 + p["b"] - 1) ** 2)
    losses = []
    for _ in range(5):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state)
        params = optax.apply_updates(params, updates)
        losses.append(value)
    return params, state[1][0].count, jnp.stack(losses)


@case(jax.random.key(1), jax.random.PRNGKey(2))
def keys_are_split(key, old):
    total = 0.0
    for _ in range(3):
        key, now = jax.random.split(key)
        old, then = jax.random.split(old)
        total = total + jax.random.normal(now) + jax.random.normal(then)
    return total, key, old


def _written(x):
    b = np.array(x)
    for i in range(3):
        b[i] = b[i - 1] * 2
        b[0] += i
        b[1:] *= 0.5
        b[-1] -= b[0]
    return b


@case(X, plain=_written)
def arrays_are_written_in_place(b):
    for i in range(3):
        b[i] = b[i - 1] * 2
        b[0] += i
        b[1:] *= 0.5
        b[-1] -= b[0]
    return b


def _matrix(x):
    m = np.zeros((3, 3))
    for i in range(3):
        for j in range(i, 3):
            m[i, j] = x[i] * x[j]
            m[j, i] = m[i, j]
        m[i] += i
        m[:, 0] = np.where(m[:, 0] > 1, 1, m[:, 0])
    m[m > 2] = -1.0
    return m


@case(X, plain=_matrix)
def matrices_are_written_in_place(x):
    m = jnp.zeros((3, 3))
    for i in range(3):
        for j in range(i, 3):
            m[i, j] = x[i] * x[j]
            m[j, i] = m[i, j]
        m[i] += i
        m[:, 0] = jnp.where(m[:, 0] > 1, 1, m[:, 0])
    m[m > 2] = -1.0
    return m


def _on_condition(x):
    b = np.array(x)
    for i in range(3):
        if b[i] > 0:
            b[i] /= 2
        else:
            b[i] = 4
            continue
        b[2] += 1
    if b[0] > 0:
        b[0] //= 0.1
    return b


@case(X, plain=_on_condition)
def arrays_are_written_on_a_condition(b):
    for i in range(3):
        if b[i] > 0:
            b[i] /= 2
        else:
            b[i] = 4
            continue
        b[2] += 1
    if b[0] > 0:
        b[0] //= 0.1
    return b


def _rows(x):
    m = np.zeros((2, 3))
    state = {"m": m, "n": 0}
    for i in range(2):
        state["m"][i] = x * i
        state["m"][i][1] = 7.0
        state["n"] += 1
    return state


@case(X, plain=_rows, refusable=True)
def arrays_inside_containers_are_written(x):
    state = {"m": jnp.zeros((2, 3)), "n": 0}
    for i in range(2):
        state["m"][i] = x * i
        state["m"][i][1] = 7.0
        state["n"] += 1
    return state


def _augmented_alias(x):
    a = np.array(x)
    b = a
    for i in range(3):
        a += 1.0
    return a


@case(X, plain=_augmented_alias)
def augmented_assignment_binds_anew(x):
    a = x
    for i in range(3):
        a += 1.0
    return a


@case(X)
def python_values_that_stay_the_same(x):
    act, mode, nothing = jnp.tanh, "scale", None
    for i in range(3):
        x = act(x) * {"scale": 2.0}[mode]
        mode = "scale"
        name = f"layer{3}"
        act = jnp.tanh
    return x, mode == "scale", name == "layer3", nothing


@case(X)
def shadowed_by_a_state(x):
    sum, state, body, carry, init, i, n = 0.0, 1.0, 2.0, x, x[0], x[1], 2
    for len in range(n):
        sum, state, body = sum + state, body, sum
        carry, init = carry * init, init + i
    return sum, state, body, carry, init, len


@pytest.mark.parametrize("name", case.cases)
def test_as_in_python(name: str) -> None:
    check(case.cases[name])


def test_another_name_keeps_its_array() -> None:
    """Arrays of JAX are values: `a[i] = v` gives `a` a new one. (Of NumPy's, both names would see it.)"""

    def write(c):
        c[0] = 7.0
        return c

    @tk.control_flow
    def f(a):
        b = a
        for i in range(3):
            a[i] = 1.0
        return a, b, write(a)

    write = tk.control_flow(write)
    a, b, c = f(X)
    assert np.all(a == 1) and np.all(b == X) and c[0] == 7


def test_the_callers_array_is_not_written() -> None:
    @tk.control_flow
    def write(b):
        for i in range(3):
            b[i] = 0.0
        return b

    mine = X + 0
    assert np.all(write(mine) == 0) and np.all(mine == X)


def test_python_numbers_are_weakly_typed_in_a_loop() -> None:
    @tk.control_flow
    def f(x, k):
        s, n = 0.0, 0
        for i in range(3):
            s, n = s + 0.5, n + k
        return s, n, i, x * s + n + i

    *weak, strong = jax.eval_shape(f, jnp.zeros(2, jnp.float16), 1)
    assert all(w.weak_type for w in weak) and strong.dtype == jnp.float16
