"""Multiplication of integers by a momentum that loses no bit.

The velocity is an integer `w` in units of `scale`, a real number that all entries share. Multiplying
`scale` by the momentum multiplies the velocity and leaves `w` as it is, so nothing is rounded. What is
added later is rounded to the new unit. But the unit must not shrink for ever, or `w` would outgrow its
64 bits. So whenever `scale` falls to 1/256 it is made 256 times larger, and `w` is divided by 256: its
lowest byte, which would be lost, moves to a row of memory. When that happens depends on the momenta
alone, so that all numbers give up a byte at the same steps, into rows of the same index.

Letters: `T` steps, `N` numbers, `R` rows.

Source: Maclaurin, Duvenaud & Adams 2015, Algorithm 3. Unlike there, the momentum need not be a
rational number and no integer is divided by its denominator; up to 8 bits wait in the velocity until
they make a byte.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit import tree
from toolkit.adjoint.reversible import integer_grid
from toolkit.jaxprs.varying_axes import vary, varying_axes

SPILLS = 2  # bytes that a velocity spills at one step, at most
SMALLEST = 2.0 ** (-8 * SPILLS)  # smaller momenta, 0 too, would spill more: this replaces them


class MomentumPlan(NamedTuple):
    """What is done to every number at each step; it depends on the momenta alone."""

    momentum: Array  # [T] floating, the one in use
    earlier_scale: Array  # [T] floating in (1/256, 1], of the velocity before the step
    scale: Array  # [T] the same after it
    spills: Array  # [T] int32, bytes moved to memory
    row: Array  # [T] int32, rows in use before the step


def make_plan(momenta: Array) -> MomentumPlan:
    """The plan for `momenta: [T]` in [0, 1]."""
    momenta = jnp.clip(momenta, SMALLEST, 1)

    def advance(earlier: Array, momentum: Array) -> tuple[Array, tuple[Array, ...]]:
        scale, spills = earlier * momentum, jnp.zeros_like(momentum, jnp.int32)
        for _ in range(SPILLS):
            small = scale <= 1 / 256
            scale, spills = (
                jnp.where(small, 256 * scale, scale),
                spills + small.astype(spills.dtype).astype(spills.dtype),
            )
        return scale, (earlier, scale, spills)

    # A number of its own type: `jnp.ones_like(momenta, shape=())` fails beside explicit mesh axes.
    one = vary(jnp.ones((), momenta.dtype), varying_axes(momenta))
    _, (earlier, scale, spills) = jax.lax.scan(advance, one, momenta)
    row = jnp.cumsum(spills, dtype=jnp.int32) - spills
    return MomentumPlan(momenta, earlier, scale, spills, row)


def known_plan(momenta: np.ndarray) -> MomentumPlan:
    """The plan, as numpy arrays, for momenta that are known before tracing."""
    # Under `jax.transfer_guard` the user's arrays stay where they are. These numbers are ours.
    with jax.ensure_compile_time_eval(), jax.transfer_guard("allow"):
        return jax.tree.map(np.asarray, make_plan(jnp.asarray(momenta)))


def rows_used(plan: MomentumPlan) -> Array:
    """Rows that the whole run takes; `[]` int32."""
    return jnp.sum(plan.spills, dtype=jnp.int32)


def no_rows(count: int, like: Array) -> Array:
    """Memory for `count` bytes of each number; `spill` writes `most` beyond those in use."""
    return jnp.broadcast_to(jnp.zeros_like(like, jnp.uint8), (count, *like.shape))


def spill(
    w: Array, rows: Array | None, step: MomentumPlan, most: int
) -> tuple[Array, Array | None]:
    """Drop the bytes that a step discards.

    Args:
      rows: where they are kept; None: nowhere.
      step: an entry of the plan.
      most: bytes that any step discards, at most SPILLS.
    """
    spills = step.spills
    if rows is not None and rows.size:
        # The rows are written at every step, without a condition. A byte that is not to be kept goes to
        # a row not in use yet, which the step that fills this row overwrites.
        for i in range(most):
            byte = integer_grid.low_byte(w, i)
            rows = jax.lax.dynamic_update_index_in_dim(rows, byte, step.row + i, 0)
        # The second argument is at least `most`, so this is `spills` still. But XLA cannot know that: it
        # has to write the rows before it computes the new `w` in place. Else it would keep a copy of the
        # old `w` for the rows, a second state in memory.
        spills = jnp.minimum(spills, _some(rows[step.row]).astype(spills.dtype) + most)
    return integer_grid.drop_bytes(w, spills), rows


def fetch(w: Array, rows: Array, step: MomentumPlan, most: int) -> Array:
    """Undo `spill`, to the bit."""
    # `spill` wrote the lowest byte first, so the last one written is appended first.
    for i in reversed(range(most)):
        byte = jax.lax.dynamic_index_in_dim(rows, step.row + i, 0, keepdims=False)
        w = jnp.where(i < step.spills, integer_grid.append_byte(w, byte), w)
    return w


def _some(row: Array) -> Array:
    """A number of the row: the first, or the largest where it lies along an explicit mesh axis.

    The first would have to be sent to all devices, which jax 0.10 refuses.
    """
    return jnp.max(row) if tree.spec(row) else row.ravel()[0]
