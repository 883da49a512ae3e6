"""Numbers in staged code are Python's: no integer wraps, and no ordinary program is refused for it.

`right` programs give what Python gives; `refused` ones would wrap, or raise in Python.
"""

# The cases are written as users write.
# ruff: noqa: B007

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.plain_python.verdicts import Programs

X = jnp.arange(12.0, dtype=jnp.float32)
programs = Programs()


@programs.right(X, 5)
def counter(x, n):
    c = 0
    for v in x:
        if v > 3:
            c += 1
    return c


@programs.right(X, 5)
def index2(x, n):
    s = 0.0
    for i in range(n):
        s += x[i * 2 + 1] if i * 2 + 1 < 12 else 0.0
    return s


@programs.right(X, 5)
def tri(x, n):
    s = 0
    t = 0.0
    for i in range(10):
        for j in range(i):
            s += j
            t += x[j]
    return s, t


@programs.right(X, 5)
def tri3(x, n):
    s = 0
    for i in range(10):
        for j in range(i):
            for k in range(j, i):
                s += k * j
    return s


@programs.right(X, 7)
def whil(x, n):
    k = 0
    s = 0
    while x[k % 12] < 9 and k < 100:
        k += 1
        s += k * k
    return s


@programs.right(X, 7)
def flat(x, n):
    s = 0.0
    for i in range(n):
        for j in range(n):
            s += x[(i * 7 + j) % 12]
    return s


@programs.right(X, 48)
def collatz_len(x, n):
    k = 0
    while n != 1:
        n = jnp.where(n % 2 == 0, n // 2, 3 * n + 1)
        k += 1
    return k


@programs.right(X, 7)
def lcg(x, n):
    h = 1
    for i in range(500):
        h = (h * 1103 + 12345) % 65536
    return h


@programs.right(X, 7)
def bits(x, n):
    h = 0
    for i in range(500):
        h = ((h << 1) ^ i) & 0xFFFF
    return h


@programs.right(jnp.float32(40.0), 7)
def double_until(x, n):
    k = 1
    while k < 100 and k < x:
        k = k * 2
    return k


@programs.right(X, 7)
def argbest(x, n):
    best = -1.0
    at = -1
    for i in range(12):
        if x[i] > best:
            best = x[i]
            at = i
    return at


@programs.right(X, 7)
def binsearch(x, n):
    lo, hi = 0, 12
    while lo < hi:
        mid = (lo + hi) // 2
        if x[mid] < n:
            lo = mid + 1
        else:
            hi = mid
    return lo


@programs.right(X, 7)
def digits(x, n):
    m = 123456
    s = 0
    for _ in range(6):
        s += m % 10
        m //= 10
    return s


@programs.right(X, 7)
def isqrt(x, n):
    r = 100
    for _ in range(10):
        r = (r + 200 // r) // 2
    return r


@programs.right(X, 7)
def two_pointers(x, n):
    i, j, c = 0, 11, 0
    while i < j:
        if x[i] + x[j] > 10:
            j -= 1
        else:
            i += 1
        c += 1
    return c


@programs.right(X, 30000)
def steps32(x, n):
    i = 0
    c = 0
    while i < n:
        i += 32
        c += 1
    return c


@programs.right(X, 7)
def fib_small(x, n):
    a, b = 0, 1
    for _ in range(40):
        a, b = b, a + b
    return a


@programs.right(X, 7)
def flags_count(x, n):
    c = 0
    for v in x:
        c = c + (v > 3)
    return c


@programs.right(X, 7)
def guarded_div(x, n):
    s = 0
    for i in range(10):
        if i > 0:
            s += 100 // i
    return s


@programs.right(X, 7)
def long_sum(x, n):
    s = 0
    for i in range(40000):
        s += i
    return s


@programs.right(X, 7)
def nested_deep(x, n):
    s = 0
    for a in range(5):
        for b in range(5):
            for c in range(5):
                for d in range(5):
                    s += a * b * c * d
    return s


@programs.right(X, 7)
def state_machine(x, n):
    s = 0
    k = 0
    for v in x:
        if s == 0:
            s = 1
        elif s == 1:
            s = 2
        else:
            s = 0
        k = k + s
    return k


@programs.right(X, 7)
def cyc(x, n):
    i = 0
    s = 0.0
    for _ in range(5000):
        s += x[i]
        i = (i + 5) % 12
    return s


@programs.right(X, 7)
def clipped(x, n):
    k = 0
    for v in x:
        k = min(k + 3, 20)
        k = max(k - 1, 0)
    return k


@programs.right(X, 7)
def prev(x, n):
    p, q = 0, 1
    for i in range(9000):
        p, q = q, i
    return p


@programs.right(X, 7)
def enum(x, n):
    s = 0
    for i, v in enumerate(x, 3):
        s += i * 1000
    return s


@programs.right(X, 7)
def gcdd(x, n):
    a, b = 48, 36
    for _ in range(10):
        if b != 0:
            a, b = b, a % b
    return a


@programs.right(X, 2000)
def traced_count(x, n):
    c = 0
    for i in range(n):
        c += 1
    return c


@programs.right(X, jnp.uint8(20))
def small_bound(x, n):
    s = 0
    for i in range(n):
        s += i * i
    return s


@programs.right(X, 20)
def limited(x, n):
    s = 0
    for i in tk.control.steps(range(n), max_steps=100):
        s += i * i
    return s


@programs.right(X, 20)
def rev(x, n):
    s = 0.0
    for i in reversed(range(2, n, 3)):
        s = s * 0.5 + i
    return s


@programs.right(X, 3)
def countdown(x, n):
    k = 10
    s = 0
    while k > 0 and x[0] < 1:
        s += k
        k -= 1
    return s


@programs.refused(X, 60000)
def square(x, n):
    s = 0
    for i in range(n):
        s = i * i
    return s


@programs.refused(X, 7)
def delayed(x, n):
    k, j = 0, -50
    for _ in range(100000):
        j += 1
        k += max(j, 0)
    return k


@programs.refused(X, 7)
def div0(x, n):
    s = 0
    for i in range(3):
        s += 10 // i
    return s


@programs.refused(X, 7)
def npsum(x, n):
    s = 0
    for v in np.full(3, 1_500_000_000):
        s = s + v
    return s


@programs.refused(X, 7)
def npint(x, n):
    s = np.int64(2_000_000_000)
    for v in range(3):
        s = s + 100_000_000
    return s


@programs.refused(X, 7)
def poly(x, n):
    h = 0
    for c in jnp.arange(10):
        h = h * 31 + 7
    return h


@programs.refused(X, 7)
def negpow(x, n):
    s = 0.0
    for i in range(-2, 3):
        s += 3**i
    return s


@programs.refused(X, 7)
def inv(x, n):
    k = 123456
    for i in range(4):
        k = ~(k << 4)
    return k


@programs.refused(X, 7)
def tribonacci(x, n):
    a, b, c = 1, 2, 3
    for i in range(60):
        a, b, c = b, c, a + b + c
    return a


@programs.refused(X, 100000)
def neg(x, n):
    s = 0
    for i in range(n):
        s -= 2 * i
    return s


@programs.refused(X)
def truths_added(x):
    k = 1
    for v in x:
        k = k * 10 + (v > 3)
    return k


@programs.refused(X)
def compared_with_a_float(x):
    n, k = 0, 16777216
    for i in range(3):
        if k + i == 16777217.0:
            n += 1
    return n


@programs.refused(X)
def list_repeated(x):
    n = 0
    for i in range(3):
        n += len([0] * i)
    return n


@programs.refused(X)
def grown_in_an_inner_function(x):
    k = 1

    def grow():
        nonlocal k
        k = k * 3

    for i in range(30):
        grow()
    return k


@pytest.mark.parametrize("name", programs.known)
def test_gives_what_python_gives_or_is_refused(name: str) -> None:
    programs.check(name)
