"""Bools of Python are the integers 0 and 1, also where a condition or a loop has made them tracers."""

# The cases are written as users write.
# ruff: noqa: E712, SIM103, SIM210

from __future__ import annotations

import jax.numpy as jnp
import pytest

from tests.plain_python.verdicts import Programs

X = jnp.arange(6.0, dtype=jnp.float32)

programs = Programs()


@programs.right(-2.0)
def bool_sum(x):
    a = x > 0
    b = x > -3
    c = x > -4
    return a + b + c


@programs.right(-2.0)
def bool_neg(x):
    a = x < 0
    return -a, +a, ~(a + 0)


@programs.right(-2.0)
def bool_arith(x):
    a, b = x < 0, x < 1
    return a * b + b * a, a - b, a / b, a**b, a << b, (a + b) >> a


@programs.right(-2.0)
def bool_bits(x):
    a, b = x < 0, x > 1
    return (a & b) + (a | b) + (a ^ b)


@programs.right(-2.0)
def bool_sumlist(x):
    return sum([x < 0, x < 1, x > 5]), sum((x < i) for i in range(4))


@programs.right(-2.0)
def bool_abs(x):
    a = x < 0
    return abs(a) + abs(a), divmod(a, 2)[1] + a, pow(a, 2) + a, round(a) + a


@programs.right(-2.0)
def bool_ternary(x):
    a = True if x < 0 else False
    b = True if x < 1 else False
    return a + b


@programs.right(-2.0)
def bool_loopflags(x):
    up = down = False
    for i in range(4):
        if x < i:
            up = True
        if x > i - 4:
            down = True
    return up + down, up * 10 + down


@programs.right(-2.0)
def bool_counts(x):
    n = 0
    for i in range(5):
        n += (x < i) + (x < i - 1)
    return n


@programs.right(-2.0)
def bool_while(x):
    go = True
    n = 0
    while go:
        n += 1
        x += 1.0
        go = x < 3
    return n + go, n


@programs.right(-2.0)
def bool_early(x):
    def pos(v):
        if v > 0:
            return True
        return False

    return pos(x + 3) + pos(x + 4) + pos(x)


@programs.right(-2.0)
def bool_chain(x):
    a = -3 < x < 0
    b = -5 < x < 5
    return a + b


@programs.right(-2.0)
def bool_andor(x):
    a = x < 0 and x > -5
    b = x > 0 or x > -5
    return a + b


@programs.right(-2.0)
def bool_isin(x):
    a = x in (1, -2)
    b = x not in (1, 2)
    return a + b, -a


@programs.right(-2.0)
def bool_max(x):
    a, b = x < 0, x < 1
    return max(a, b) + max(a, b), min(a, 3) + min(a, b)


@programs.right(-2.0)
def bool_index(x):
    a = x < 0
    return X[a + 1]


@programs.right(-2.0)
def bool_aug(x):
    n = x < 0
    n += x < 1
    n <<= 2
    return n


@programs.right(-2.0)
def bool_mix(x):
    a = x < 0
    return a * 0.5 + (not a), a == 1, a > 0, (a == True) + a


@programs.refused(-2.0)
def bool_dict(x):
    f = {True: 1.0, False: 2.0}
    return f[x < 0]


@programs.right(-2.0)
def bool_is(x):
    a = x < 0
    b = x > 0
    n = 0
    if a is True:
        n += 1
    if b is not True and b is False:
        n += 10
    for i in range(3):
        if (i > 1) is True:
            n += 100
    return n, a is b, x is None


@programs.refused(-2.0)
def number_is(x):
    n = 0
    for i in range(3):
        if i is n:
            n += 1
    return n


@pytest.mark.parametrize("name", programs.known)
def test_gives_what_python_gives_or_is_refused(name: str) -> None:
    programs.check(name)
