"""Multiplication of integers by a rational momentum that loses no bit.

Multiplying a velocity by `n / d < 1` discards `log2(d / n)` bits of it. They are kept on a stack,
one a number: an integer `top` of 32 bits, whose low bytes move to rows of memory before it could
overflow. How large `top` can be at each step depends on the momenta alone, so that all numbers
spill at the same steps, into rows of the same index.

Letters: `T` steps, `N` numbers, `R` rows.

Source: Maclaurin, Duvenaud & Adams 2015, Algorithm 3. Unlike there: the low bytes are spilled and
the high ones stay; starting again from an empty word would cost log2(d^2 / (d - n)) bits a word.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit.adjoint.grid import Grid, divide, divide_small, multiply_add

LARGEST = 0xFFFF  # denominator: products with 16-bit digits fit in 32 bits
RESOLUTION = 24  # bits of a momentum that are looked at
SPILLS = 2  # bytes at most a step: one step adds at most 16 bits
WORD = np.uint32(0xFFFFFFFF)


class Plan(NamedTuple):
    """What is done to every number at each step; it depends on the momenta alone."""

    numerator: Array  # [T] uint32
    denominator: Array  # [T] uint32
    spills: Array  # [T] uint32, bytes moved to memory before the multiplication
    row: Array  # [T] uint32, rows in use before the step


class Stack(NamedTuple):
    """The discarded bits of `N` numbers."""

    top: Array  # [N] uint32
    rows: Array | None  # [R, N] uint8; None where nobody will pop


def make_plan(momenta: Array) -> Plan:
    """The plan for `momenta: [T]` in [0, 1]."""
    numerator, denominator = rational(momenta)

    def advance(bound: Array, ratio: tuple[Array, Array]) -> tuple[Array, Array]:
        # `bound` is the largest value that `top` can have.
        n, d = ratio
        room, spills = (WORD - (d - 1)) // d, jnp.zeros_like(d)
        for _ in range(SPILLS):
            full = bound > room
            bound, spills = jnp.where(full, bound >> 8, bound), spills + full
        return (bound * d + (d - 1)) // n, spills

    _, spills = jax.lax.scan(advance, jnp.zeros_like(numerator, shape=()), (numerator, denominator))
    return Plan(numerator, denominator, spills, jnp.cumsum(spills, dtype=jnp.uint32) - spills)


def known_plan(momenta: np.ndarray) -> Plan:
    """The plan, as numpy arrays, for momenta that are known before tracing."""
    with jax.ensure_compile_time_eval():
        return jax.tree.map(np.asarray, make_plan(jnp.asarray(momenta)))


def rows_used(plan: Plan) -> Array:
    """Rows that the whole run takes; `[]` uint32."""
    return jnp.sum(plan.spills, dtype=jnp.uint32)


def rational(momenta: Array) -> tuple[Array, Array]:
    """The simplest `n / d` within `2^-25` of each momentum, or the nearest with `d < 2^16`.

    0 < n <= d, and 0.9 is 9/10. The effective step `1 / (1 - n/d)` is that of the momentum to
    8e-6 at worst, as a rule to 1e-7 (a momentum below 2^-17 becomes 2^-16).
    """
    # Continued fraction of p/q, in integers; h/k are its convergents, `rest` is |p k - q h|.
    unit = 1 << RESOLUTION
    p = jnp.round(jnp.clip(momenta, 0, 1) * unit).astype(jnp.uint32)
    zero, one = jnp.zeros_like(p), jnp.ones_like(p)

    def expand(_: int, state: tuple) -> tuple:
        p, q, (h, k), (h_old, k_old), done = state
        whole = p // jnp.maximum(q, 1)
        # Beyond `most` the denominator is too large: the last step is cut short, if that is nearer.
        most = jnp.where(k == 0, WORD, (LARGEST - k_old) // jnp.maximum(k, 1))
        terms = jnp.minimum(whole, most)
        done |= (q == 0) | (2 * terms < whole)
        new = (terms * h + h_old, terms * k + k_old)
        rest = p - whole * q
        new, old = _where(done, ((h, k), (h_old, k_old)), (new, (h, k)))
        done |= (terms < whole) | (2 * rest <= new[1])
        return q, rest, new, old, done

    start = (p, one * unit, (one, zero), (zero, one), jnp.zeros_like(p, bool))
    *_, (n, d), _, _ = jax.lax.fori_loop(0, RESOLUTION, expand, start)
    vanishes = n == 0
    return jnp.where(vanishes, 1, n), jnp.where(vanishes, LARGEST, d)


def multiply(v: Grid, stack: Stack, step: Plan) -> tuple[Grid, Stack]:
    """`v * n / d`, the lost bits pushed; `step` is one entry of the plan."""
    top, rows = _spill(stack, step)
    whole, rest = divide(v, step.denominator)
    top, addend = divide_small(top * step.denominator + rest, step.numerator)
    return multiply_add(whole, step.numerator, addend), Stack(top, rows)


def unmultiply(v: Grid, stack: Stack, step: Plan) -> tuple[Grid, Stack]:
    """Undo `multiply`, to the bit."""
    whole, rest = divide(v, step.numerator)
    top, addend = divide_small(stack.top * step.numerator + rest, step.denominator)
    v = multiply_add(whole, step.denominator, addend)
    return v, _fetch(Stack(top, stack.rows), step)


def _spill(stack: Stack, step: Plan) -> Stack:
    top, rows = stack
    for i in range(SPILLS):
        full = i < step.spills
        if rows is not None:
            row = step.row + i
            rows = rows.at[row].set(jnp.where(full, top.astype(jnp.uint8), rows[row]))
        top = jnp.where(full, top >> 8, top)
    return Stack(top, rows)


def _fetch(stack: Stack, step: Plan) -> Stack:
    top, rows = stack
    assert rows is not None  # whoever undoes a step has kept them
    for i in reversed(range(SPILLS)):
        byte = rows[step.row + i].astype(jnp.uint32)
        top = jnp.where(i < step.spills, (top << 8) | byte, top)
    return Stack(top, rows)


def _where(condition: Array, a: tuple, b: tuple) -> tuple:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
