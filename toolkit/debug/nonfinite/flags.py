"""Which equation of a compiled computation is the first to make something non-finite.

The compiled computation returns one flag for each equation, and no intermediate value. It serves where
running equation by equation is impossible (inside of `shard_map`), and where it gives finite numbers
although the compiled computation does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit.debug.nonfinite.interpret import PlaceInProgram
from toolkit.jaxprs.classes import Literal
from toolkit.jaxprs.read import called, evaluate_equation, is_callback, literal, opened


def first_bad(
    computation: Any,
    placed: Callable[[Callable[..., Array]], Callable[..., Array]],
    operands: Sequence[Any],
    scope: PlaceInProgram = PlaceInProgram(),
) -> PlaceInProgram | None:
    """The first equation whose result is bad while its operands are not; loops count as one.

    Args:
      placed: puts the function that computes the flags, `[1, equations]`, where it has to run.
      scope: that of the computation.
    """
    scopes: list[PlaceInProgram] = []

    def flags(*operands: Any) -> Array:
        scopes.clear()
        found: list[Array] = []
        _flag(computation, operands, scope, scopes, found)
        # One flag more, as a stack of none is refused. The first axis is for the devices of a `shard_map`.
        return jnp.stack([*found, jnp.asarray(False)])[None]

    born = np.asarray(jax.jit(placed(flags))(*operands)).any(axis=0)
    return scopes[int(np.argmax(born))] if born.any() else None


def _flag(
    computation: Any,
    operands: Sequence[Any],
    scope: PlaceInProgram,
    scopes: list[PlaceInProgram],
    found: list[Array],
) -> list[Any]:
    jaxpr, consts = opened(computation)
    known = dict(zip(map(id, jaxpr.constvars), consts, strict=True))
    known |= dict(zip(map(id, jaxpr.invars), operands, strict=True))

    def read(atom: Any) -> Any:
        return literal(atom) if isinstance(atom, Literal) else known[id(atom)]

    for index, equation in enumerate(jaxpr.eqns):
        here = scope.at(index, equation)
        if is_callback(equation):
            continue
        values = list(map(read, equation.invars))
        if (inner := called(equation)) is not None:
            results = _flag(inner, values, here, scopes, found)
        else:
            results = evaluate_equation(equation, values)
            # Bad results from good operands: the fault begins here. What reads these results has bad
            # operands.
            scopes.append(here)
            found.append(_is_bad(results) & ~_is_bad(values))
        known |= dict(zip(map(id, equation.outvars), results, strict=True))
    return list(map(read, jaxpr.outvars))


def _is_bad(values: Sequence[Any]) -> Array:
    inexact = [v for v in values if jnp.issubdtype(jnp.result_type(v), jnp.inexact)]
    return ~jnp.stack([jnp.isfinite(v).all() for v in inexact] or [jnp.asarray(True)]).all()
