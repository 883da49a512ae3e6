"""Text, keys, types and methods of traced numbers are those of Python's numbers, or refused."""

# The cases are written as users write.
# ruff: noqa: B007, E721, UP031, UP032

from __future__ import annotations

import math
import numbers
import string

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.plain_python.verdicts import Programs

X = jnp.arange(6.0, dtype=jnp.float32)
T = {"w0": 1.0, "w1": 2.0, "w2": 3.0, 1: 5.0}

programs = Programs()


@programs.refused(3)
def t_pct(n):
    s = 0.0
    for i in range(3):
        s += T.get("w%s" % (i,), 0.0)
    return s


@programs.refused(3)
def t_pctd(n):
    s = 0.0
    for i in range(3):
        s += T.get("w%d" % i, 0.0)
    return s


@programs.refused(3)
def t_pctdict(n):
    s = 0.0
    for i in range(3):
        s += T.get("w%(i)s" % {"i": i}, 0.0)
    return s


@programs.refused(3)
def t_join(n):
    s = 0.0
    for i in range(3):
        s += T.get("".join(map(str, ["w", i])), 0.0)
    return s


@programs.refused(3)
def t_fmtkw(n):
    s = 0.0
    for i in range(3):
        s += T.get("w{i}".format(i=i), 0.0)
    return s


@programs.refused(3)
def t_fmtmap(n):
    s = 0.0
    for i in range(3):
        s += T.get("w{i}".format_map({"i": i}), 0.0)
    return s


@programs.refused(3)
def t_strformat(n):
    s = 0.0
    for i in range(3):
        s += T.get(str.format("w{}", i), 0.0)
    return s


@programs.refused(3)
def t_dunder(n):
    s = 0.0
    for i in range(3):
        s += T.get("w" + i.__str__(), 0.0)
    return s


@programs.refused(3)
def t_repr(n):
    s = 0.0
    for i in range(3):
        s += T.get("w" + repr(i), 0.0)
    return s


@programs.refused(3)
def t_strlist(n):
    s = 0.0
    for i in range(3):
        s += len(str([i]))
    return s


@programs.refused(3)
def t_fstringlist(n):
    s = 0.0
    for i in range(3):
        s += len(f"{(i, i)}")
    return s


@programs.refused(3)
def t_template(n):
    s = 0.0
    for i in range(3):
        s += T.get(string.Template("w$i").substitute(i=i), 0.0)
    return s


@programs.refused(3)
def t_after(n):
    k = 0
    for i in range(3):
        k += 1
    return T.get(f"w{k - 1}", 0.0)


@programs.refused(3)
def t_key(n):
    s = 0.0
    for i in range(3):
        s += T.get(i, 0.0)
    return s


@programs.refused(3)
def t_set(n):
    s = 0
    for i in range(3):
        if i in {0, 2}:
            s += 1
    return s


@programs.refused(3)
def t_sortedkey(n):
    s = 0
    for i in range(3):
        s += sorted([i, 1], key=str)[0]
    return s


@programs.refused(3)
def t_ascii(n):
    s = 0
    for i in range(3):
        s += len(ascii(i))
    return s


@programs.refused(3)
def q_type(n):
    c = 0
    for i in range(3):
        c += 1 if type(i) == int else 10
    return c


@programs.refused(3)
def q_class(n):
    c = 0
    for i in range(3):
        c += 1 if i.__class__ is int else 10
    return c


@programs.refused(3)
def q_name(n):
    c = 0
    for i in range(3):
        c += 1 if type(i).__name__ == "int" else 10
    return c


@programs.right(3)
def q_npint(n):
    c = 0
    for i in range(3):
        c += 1 if isinstance(i, np.integer) else 10
    return c


@programs.refused(3)
def q_real(n):
    c = 0
    for i in range(3):
        c += 1 if isinstance(i, (numbers.Real, str)) else 10
    return c


@programs.refused(3)
def q_nd(n):
    c = 0
    for i in range(3):
        c += 10 if isinstance(i, (np.ndarray, jax.Array)) else 1
    return c


@programs.refused(3)
def q_getattr(n):
    c = 0
    for i in range(3):
        c += 1 if getattr(i, "shape", None) is None else 10
    return c


@programs.refused(3)
def q_scalar(n):
    c = 0
    for i in range(3):
        c += 1 if np.isscalar(i) else 10
    return c


@programs.refused(3)
def q_issub(n):
    c = 0
    for i in range(3):
        c += 1 if issubclass(type(i), int) else 10
    return c


@programs.refused(3)
def q_float(n):
    x = 0.5
    c = 0
    for i in range(3):
        x = x * 2
        c += 1 if type(x) is float else 10
    return c


@programs.right(3)
def q_str(n):
    c = 0
    for i in range(3):
        c += 10 if isinstance(i, str) else 1
    return c


@programs.right(X)
def q_arr(x):
    c = 0
    for v in x:
        c += 1 if isinstance(v, jax.Array) else 10
    return c


@programs.refused(3)
def m_bitlength(n):
    c = 0
    for i in range(3):
        c += i.bit_length()
    return c


@programs.refused(3)
def m_bitlength_try(n):
    c = 0
    for i in range(3):
        try:
            c += i.bit_length()
        except AttributeError:
            c += 100
    return c


@programs.refused(3)
def m_math(n):
    c = 0.0
    for i in range(3):
        c += math.sqrt(i) + math.floor(i) + float(i)
    return c


@programs.refused(3)
def m_index(n):
    c = 0.0
    xs = [1.0, 2.0, 4.0]
    for i in range(3):
        c += xs[i] + sum(xs[:i])
    return c


@programs.right(3)
def m_real(n):
    c = 0
    for i in range(3):
        c += i.real + i.imag + i.conjugate()
    return c


@programs.refused(3)
def m_inrange(n):
    c = 0
    for i in range(5):
        if i in range(1, 4):
            c += 1
    return c


@programs.refused(3)
def m_pow3(n):
    c = 0
    for i in range(5):
        c += pow(i, 2, 3)
    return c


@programs.right(3)
def m_divmod(n):
    c = 0
    for i in range(-5, 5):
        q, r = divmod(i, 3)
        c += q * 10 + r
        q, r = divmod(i, -3)
        c += q * 10 + r
        c += i // 4 + i % -4 + (i >> 1) + abs(i) + (-i) ** 2
    return c


@programs.right(3)
def m_float_in_int(n):
    best = -1
    for i in range(4):
        if i > best:
            best = i
    return best / 2


@pytest.mark.parametrize("name", programs.known)
def test_gives_what_python_gives_or_is_refused(name: str) -> None:
    programs.check(name)
