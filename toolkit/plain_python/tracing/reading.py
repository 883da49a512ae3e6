"""Questions about a traced block: what it changes, which inputs it uses, which dtypes it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from toolkit.jaxprs.read import inner, opened
from toolkit.plain_python.carried.encoding import EncodedVariable
from toolkit.plain_python.carried.typed_arrays import is_extended
from toolkit.plain_python.carried.variables import Variables
from toolkit.plain_python.tracing.blocks import TracedBlock


def changed_by_calls(
    variables: Variables, entry: Sequence[EncodedVariable], traced: TracedBlock
) -> tuple[str, ...]:
    """The watched variables that were changed in place, by something that the block calls."""
    return tuple(
        name
        for name, one, exit in zip(variables.names, entry, traced.exits, strict=True)
        if name in variables.watched and exit.node is not one.node
    )


def is_input(traced: TracedBlock, output: int, position: int) -> bool:
    """Whether a result is the input at `position`, unchanged."""
    return traced.jaxpr.jaxpr.outvars[output] is traced.jaxpr.jaxpr.invars[position]


def uses_input(traced: TracedBlock, position: int) -> bool:
    """Whether anything is computed from the input at `position`."""
    variable = traced.jaxpr.jaxpr.invars[position]
    return any(variable is atom for eqn in traced.jaxpr.jaxpr.eqns for atom in eqn.invars)


def has_other_width(traced: TracedBlock, dtype: Any) -> bool:
    """Whether the block computes with floats, or integers, of another width than `dtype`.

    Only then does it matter whether a number is weakly typed: the weakly typed `1.0 * bfloat16` is a
    bfloat16, `float32(1.0) * bfloat16` is a float32.
    """
    kind = jnp.inexact if jnp.issubdtype(dtype, jnp.inexact) else jnp.integer
    return any(jnp.issubdtype(d, kind) and d != dtype for d in _dtypes(traced.jaxpr.jaxpr))


def _dtypes(computation: Any) -> set[Any]:
    """All dtypes in a jaxpr and in the jaxprs inside it."""
    jaxpr, _ = opened(computation)
    found = {getattr(v.aval, "dtype", None) for v in (*jaxpr.invars, *jaxpr.constvars)}
    for equation in jaxpr.eqns:
        found |= {getattr(v.aval, "dtype", None) for v in equation.outvars}
        found = found.union(*map(_dtypes, inner(equation)))
    return {dtype for dtype in found if dtype is not None and not is_extended(dtype)}
