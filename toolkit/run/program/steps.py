"""Steps as one program: a loop of any number of them, which returns the rows and where a NaN or infinity was.

The numbers of rows and steps are data, so the same loop body makes every step of a run. Its bits do not depend
on how the run is cut into calls, nor on where it is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.debug.nonfinite import checks
from toolkit.jaxprs import platform
from toolkit.jaxprs.read import inner

if TYPE_CHECKING:
    from toolkit.debug import GradientReport

ROWS = 256  # the most that one call makes
Reports = dict[str, "GradientReport"]
Step = Callable[[Any], tuple[Any, dict[str, Array], Reports]]  # state -> state, metrics, reports


class Made(NamedTuple):
    """What a call made. Leading axes are of rows, of which only those that were asked for are set."""

    state: Any
    values: dict[str, Array]  # the metrics, each [rows]
    found: Array  # bool [rows, leaves, 2], as `nonfinite.kinds`
    reports: Reports  # of the gradients, where this step reports them


def looped(step: Step, metrics: Mapping[str, Any]) -> Callable[[Any, Array, Array], Made]:
    """`advance(state, rows, every)`: makes `rows * every` steps, at most `ROWS` rows, and drops their reports.

    Args:
      metrics: shapes of what `step` returns.
    """

    def advance(state: Any, rows: Array, every: Array) -> Made:
        values = {name: jnp.zeros(ROWS, metric.dtype) for name, metric in metrics.items()}
        found = jnp.zeros((ROWS, *_kinds(state).shape), bool)

        def row(r: Array, made: tuple[Any, Any, Array]) -> tuple[Any, Any, Array]:
            def once(_step: Array, made: tuple[Any, Any]) -> tuple[Any, Any]:
                state, values = made
                state, scalars, _ = step(state)
                # Each step writes its metrics into the row, although only the last one counts. Carrying the
                # scalars through the loop instead makes XLA's CPU loops up to 10 % slower.
                return state, {name: _put(values[name], scalars[name], r) for name in values}

            state, values, found = made
            state, values = jax.lax.fori_loop(0, every, once, (state, values))
            return state, values, _put(found, _kinds(state), r)

        state, values, found = jax.lax.fori_loop(0, rows, row, (state, values, found))
        return Made(state, values, found, {})

    return advance


def single(step: Step) -> Callable[[Any, Array, Array], Made]:
    """`advance(state, 1, 1)`: makes one step, outside of any loop, with its reports."""

    def advance(state: Any, _rows: Array, _every: Array) -> Made:
        state, scalars, reports = step(state)
        values = {name: jnp.asarray(value)[None] for name, value in scalars.items()}
        return Made(state, values, _kinds(state)[None], reports)

    return advance


def slow_in_loops(jaxpr: Any) -> bool:
    """Whether a step should not be put into a loop: it has a convolution outside of its own loops, on a CPU.

    XLA makes some convolutions eight times slower inside a CPU loop. Such steps are called one at a time.
    """
    if not platform.is_cpu():
        return False
    return any(
        equation.primitive.name == "conv_general_dilated"
        or (
            equation.primitive.name not in ("scan", "while")
            and any(map(slow_in_loops, inner(equation)))
        )
        for equation in jaxpr.eqns
    )


def _kinds(state: Any) -> Array:
    """What the leaves of a state hold that is not finite: `checks.kinds` of those that can hold such."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if checks.can_fail(leaf)]
    # `kinds` takes three times as long as asking whether all numbers are finite, which they nearly always
    # are. So that is asked first.
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all() if leaves else True
    nothing = lambda leaves: jnp.zeros((len(leaves), 2), bool)
    return jax.lax.cond(finite, nothing, checks.kinds, leaves)


def _put(rows: Array, value: Any, r: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(rows, jnp.asarray(value, rows.dtype), r, 0)
