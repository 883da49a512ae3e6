"""Integers after a condition or a loop, beside floats, beside narrow arrays and beside NumPy's."""

# The cases are written as users write.
# ruff: noqa: B007, B905

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from tests.plain_python.verdicts import Programs

X = jnp.arange(6.0, dtype=jnp.float32)

programs = Programs()


@programs.refused(1.0)
def j_maxint(x):
    return max(16777217, x)


@programs.refused(1.0)
def j_compare(x):
    return 1 if x * 16777216.0 < 16777217 else 0


@programs.refused(1.0)
def j_after(x):
    k = 10**9 if x > 0 else 2 * 10**9
    return k * 4


@programs.refused(1.0)
def j_afterloop(x):
    k = 0
    for i in range(10):
        k += 1
    return k * 1_000_000_000


@programs.refused(1.0)
def j_float_after(x):
    k = 123456789 if x > 0 else 3
    y = k if x > 0 else 0.5
    return y


@programs.refused(1.0)
def j_loopjoin(x):
    k = 1
    y = 0.5
    for i in range(30):
        k = (k * 3 + 1) % 100000007
        if i == 29:
            y = k
    return y


@programs.refused(jnp.bfloat16(1.0))
def n_big(x):
    return x if x < 0 else 70000


@programs.refused(jnp.int8(1))
def n_int8(x):
    return x if x < 0 else 300


@programs.refused(jnp.float16(1))
def n_f16(x):
    return x if x < 0 else 1e9


@programs.right(jnp.int8(100))
def n_int8loop(x):
    s = 0
    for i in range(200):
        s = i
    return s + 0 * i


@programs.right(jnp.int8(3))
def n_int8count(x):
    c = 0
    for i in range(100):
        if i % x == 0:
            c += 1
    return c


@programs.right(jnp.arange(5, dtype=jnp.bfloat16))
def n_bf(xs):
    total = 0.0
    best = float("-inf")
    n = 0
    for x in xs:
        total += x * 0.5
        if x > best:
            best = x
            n += 1
    return total, best, n


@programs.right(jnp.arange(5, dtype=jnp.float16))
def n_f16w(xs):
    s = 1
    p = 0
    while s < 100:
        s = s * 2 + xs[1]
        p += 1
    return s, p


@programs.refused(1.0)
def np_closed(x):
    c = np.int64(3_000_000_000)
    s = 0
    for i in range(3):
        s = s + c
    return s


@programs.refused(1.0)
def np_arr(x):
    c = np.array([3_000_000_000, 5])
    s = jnp.zeros(2, jnp.int32)
    for i in range(3):
        s = s + c
    return s


@programs.refused(1.0)
def np_branch(x):
    c = np.int64(5)
    if x > 0:
        c = np.int64(3_000_000_000)
    return c


@programs.refused(1.0)
def np_prod(x):
    c = np.arange(1, 4) * 50000
    for i in range(3):
        c = c * 1000
    return c


@programs.refused(1.0)
def sh_neg(x):
    s = 0
    for i in range(-2, 2):
        s += 1 << i
    return s


@programs.refused(1.0)
def z_mod(x):
    s = 0
    for i in range(3):
        s += 7 % i
    return s


@programs.refused(1.0)
def z_while(x):
    i = 3
    s = 0
    while i >= 0 and x < 2:
        s += 10 // i
        i -= 1
    return s


@programs.refused(1.0)
def big_enum(x):
    s = 0.0
    for i, v in enumerate(X, 2_147_483_645):
        s = s + i * 1e-9
    return s


@programs.refused(1.0)
def a_branch_closed(x):
    k = 10**9 if x > 0 else 2
    s = 0
    for i in range(5):
        s += k
    return s


@programs.right(1.0)
def a_branch_carried(x):
    k = 10**9 if x > 0 else 2
    for i in range(5):
        k += 10**8 * i
    return k


@programs.right(1.0)
def a_branch_fine(x):
    k = 10 if x > 0 else 2
    for i in range(5):
        k += 10 * i
    return k * 1000 + X[k % 3]


@programs.refused(1.0)
def a_twice(x):
    k = 10**5 if x > 0 else 2
    j = k * k
    return j


@programs.refused(1.0)
def a_index_after(x):
    for i in range(10):
        pass
    return i * 10**9


@programs.refused(1.0)
def a_ret(x):
    def g(v):
        if v > 0:
            return 2 * 10**9
        return 5

    return g(x) + g(x)


@programs.refused(1.0)
def a_neg(x):
    k = -(2**31) if x > 0 else 5
    return -k


@programs.refused(1.0)
def a_shift(x):
    k = 5 if x > 0 else 7
    return k << 30


@programs.refused(1.0)
def a_negpow(x):
    k = -2 if x > 0 else 2
    return 2**k


@programs.refused(1.0)
def a_pow(x):
    k = 50 if x > 0 else 2
    return 3**k


@programs.refused(1.0)
def a_div0(x):
    k = 0 if x > 0 else 2
    return 10 // k


@programs.right(1.0)
def a_divguard(x):
    k = 0 if x > 0 else 2
    return 10 // k if k != 0 else -1


@programs.refused(1.0)
def a_floatjoin(x):
    k = 16777217 if x > 0 else 5
    y = 0.5
    if x > -1:
        y = k
    return y


@programs.right(1.0)
def a_count_after(x):
    c = 0
    for v in X:
        if v > 2:
            c += 1
    return c * 1000, c / 3, c % 2, -c, c**2, c << 3, c & 1, ~c, c // 2


@programs.refused(1.0)
def a_dict(x):
    d = {"a": 1}
    if x > 0:
        d["a"] = 2 * 10**9
    d["a"] += d["a"]
    return d["a"]


@programs.refused(1.0)
def a_list(x):
    l = [1, 2]
    for i in range(3):
        l[0] = l[0] + 10**9
    return l[0]


@programs.refused(1.0)
def a_nested_branch(x):
    k = 1
    if x > 0:
        k = 2 * 10**9
        if x > -1:
            k = k + k
    return k


@programs.refused(1.0)
def a_whileafter(x):
    k = 0
    while x < 100 and k < 50:
        x += 1
        k += 1
    return k * 10**8


@programs.refused(1.0)
def a_bool(x):
    a = x > 0
    return (a + a + 1) * 10**9


@programs.refused(1.0)
def a_augm(x):
    k = 10**9 if x > 0 else 1
    k *= 3
    return k


@programs.refused(1.0)
def a_inner(x):
    k = 1
    for i in range(3):
        j = 1
        if X[i] > -1:
            j = 10**9
        k = k + j
    return k


@programs.refused(1.0)
def a_append(x):
    ks = []
    for i in range(5):
        ks.append(i * 10**9)
    return ks[-1]


@programs.refused(1.0)
def a_appendbranch(x):
    ks = [1]
    if x > 0:
        ks.append(5 * 10**9)
    else:
        ks.append(1)
    return ks[-1]


@programs.refused(1.0)
def a_out(x):
    s = 0.0
    for i in range(4):
        s = s + (i * 1_000_000_000) * 1e-9
    return s


@programs.refused(1.0)
def a_array(x):
    s = jnp.zeros(4)
    for i in range(4):
        s[i] = i * 1_000_000_000
    return s


@programs.refused(1.0)
def a_unassigned(x):
    for i in range(4):
        t = (i + 1) * 10**8
    return t * 10


@programs.refused(3)
def a_zip(n):
    s = 0
    for i, j in zip(range(3), range(0, 3 * 10**9, 10**9)):
        s += j
    return s


@programs.refused(3)
def a_abs(n):
    k = -(2**31) if n > 0 else 1
    return abs(k)


@programs.refused(3)
def a_sum(n):
    k = 2**30 if n > 0 else 1
    return sum([k, k])


@programs.refused(3)
def a_max(n):
    k = 2**30 if n > 0 else 1
    return max(k, 5) * 2


@programs.refused(3)
def a_divmod(n):
    k = 2**30 if n > 0 else 1
    return divmod(k, 1)[0] * 2


@programs.right(3)
def a_vec(n):
    k = 2**30 if n > 0 else 1
    return (jnp.arange(3) + k) * 2


@programs.right(jnp.int32(2**30))
def a_jax(k):
    for i in range(2):
        k = k * 2
    return k if k > 0 else 7


@programs.right(2**30)
def a_jit_argument(k):
    return 5


@programs.refused(2)
def g_boolafter(n):
    c = 5
    for i in range(n):
        c = i < 1
    return c + 1


@programs.right(1.0)
def g_mixbool(x):
    c = 5
    for i in range(3):
        c = x < i
    return c + c


@programs.right(1.0)
def g_intorbool(x):
    c = 3 if x > 5 else True
    return c + 1


@programs.right(1.0)
def g_np_bool(x):
    a = np.bool_(True)
    b = x > 0
    return a + b


@programs.right(1.0)
def g_not_not(x):
    zero = not x
    return (not zero) + zero, (not x > 5) * 2


@programs.right(1.0)
def g_sumgen(x):
    return sum(v > 2 for v in X), sum([v > 2 for v in (x, x + 3, 5.0)])


@programs.right(1.0)
def g_strjax(x):
    y = jnp.asarray([1.0, 2.0]) > 1.5
    return jnp.sum(y) + (x > 0)


@programs.right(jnp.float32(1.0))
def g_jaxbool(x):
    a = x > 0
    b = x > -1
    return a + b


@programs.refused(1.0)
def g_isinstance_outside(x):
    k = 1 if x > 0 else 2
    return 1 if isinstance(k, int) else 10


@programs.refused(1.0)
def g_type_outside(x):
    k = 0
    for i in range(3):
        k += 1
    return 1 if type(k) is int else 10


@programs.refused(jnp.int16(5))
def g_i16(n):
    s = 0
    for i in range(n, n + 3):
        s += i * 10000
    return s


@programs.right(jnp.int8(100))
def g_i8range(n):
    s = 0
    for i in range(n, 127):
        s += i * 100
    for i in range(-100, n, 50):
        s += i
    return s


@programs.right(jnp.bfloat16(2))
def g_bfwhile(x):
    k = 0
    y = 1.0
    while y < 50:
        y = y * x
        k += 1
    return y, k


@programs.right(jnp.float16(2))
def g_minmax(x):
    return max(x, 1.0), min(x, 3), max(0.5, x, 1)


@programs.right(jnp.bfloat16(2))
def g_andor(x):
    return x and 1.5, x or 3.0, 0.5 if x > 5 else x


@programs.right(jnp.ones(3, jnp.float16))
def g_nested(xs):
    a = b = c = d = 0
    for x in xs:
        for _ in range(2):
            a, b, c, d = a + x, b + a, c + b, d + c
    return a, b, c, d


@programs.refused(1.0)
def g_np64arr(x):
    a = np.arange(3) * 10**9
    for i in range(2):
        a = a + a
    return a[2]


@programs.refused(1.0)
def g_npu64(x):
    a = np.uint64(2**63)
    if x > 0:
        a = a + np.uint64(1)
    return a


@programs.refused(1.0)
def g_zipnp(x):
    s = 0
    for i, v in zip(range(3), np.array([2**31 - 1] * 3)):
        s += v
    return s


@programs.refused(1.0)
def g_enumnp(x):
    s = 0
    for i, v in enumerate(np.array([2**30] * 3)):
        s = s + v * (i + 1)
    return s


@programs.refused(1.0)
def g_np64mul(x):
    s = 0
    for i in range(5):
        s += np.int64(10**9) * i
    return s


@programs.right(1.0)
def g_sqrt2(x):
    s = 0.0
    for i in range(4):
        s += i**0.5 + i**-0.5 if i > 0 else 0.0
    return s


@programs.right(1.0)
def g_pow_frac(x):
    s = 0.0
    for i in range(1, 4):
        s += i**-1 + 2.0**-i
    return s


@programs.refused(3)
def g_pow_argument(n):
    s = 0.0
    for i in range(2):
        s += 2 ** (i - n)
    return s


@pytest.mark.parametrize("name", programs.known)
def test_gives_what_python_gives_or_is_refused(name: str) -> None:
    programs.check(name)
