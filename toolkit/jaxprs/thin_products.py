"""Matrix products with few columns, arranged so that their derivatives are fast on CPUs.

The gradient of `x @ w` in a `w` with few columns is `x' g`. JAX writes it as `(g' x)'`, but XLA turns that
back into `x' g`, which takes two to twenty times as long on a CPU: more than the rest of a step of logistic
regression. With `w'` behind an optimization barrier the product is `x (w')'`, and each of its derivatives
comes out as `g' x`, to any order.

Source: measured, see benchmarks/RESULTS.md.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import jax

from toolkit.jaxprs import platform
from toolkit.jaxprs.classes import ClosedJaxpr, Literal, Var

# With fewer than these a product is as fast as it stands, or the transpose of w costs what is gained.
LEAST_COLUMNS = 2  # of w
LEAST_ROWS_A_COLUMN = 2  # rows of w for each of its columns
LEAST_EXAMPLES_A_COLUMN = 10  # rows of x for each column of w


def arranged(closed: ClosedJaxpr, moving: Sequence[bool]) -> ClosedJaxpr:
    """The same computation, with `x @ w` rearranged where `w` is thin and depends on a `moving` argument.

    Products within `jit`s are found too; those within loops, branches and custom rules stay as they are.

    Args:
      moving: for each argument of `closed`, whether derivatives are taken in it. A product whose `w` does not
        depend on such an argument has no slow derivative, and stays as it is.

    Returns: a computation of the same values, to rounding. `closed` itself where nothing is thin, and where
    it is not traced for a CPU.
    """
    if not platform.is_cpu():
        return closed
    jaxpr = closed.jaxpr
    moved = {name for name, moves in zip(jaxpr.invars, moving, strict=True) if moves}
    equations: list[Any] = []
    for equation in jaxpr.eqns:
        moves = [not isinstance(atom, Literal) and atom in moved for atom in equation.invars]
        moved.update(equation.outvars if any(moves) else ())
        equations += _arranged(equation, moves)
    same = len(equations) == len(jaxpr.eqns) and all(map(operator.is_, equations, jaxpr.eqns))
    return closed if same else closed.replace(jaxpr=jaxpr.replace(eqns=equations))


def _arranged(equation: Any, moves: Sequence[bool]) -> list[Any]:
    if equation.primitive.name == "jit" and any(moves):
        inner = equation.params["jaxpr"]
        new = arranged(inner, moves)
        return [
            equation if new is inner else equation.replace(params=equation.params | {"jaxpr": new})
        ]
    if equation.primitive is jax.lax.dot_general_p and moves[1] and _is_thin(equation):
        return _by_transpose(equation)
    return [equation]


def _is_thin(equation: Any) -> bool:
    """Whether it is `x @ w` with a thin `w`, `x` of any rank, on one device."""
    x, w = (atom.aval for atom in equation.invars)
    contracted, batch = equation.params["dimension_numbers"]
    if w.ndim != 2 or tuple(map(tuple, contracted)) != ((x.ndim - 1,), (0,)) or any(batch):
        return False
    sharded = any(axis is not None for axis in (*x.sharding.spec, *w.sharding.spec))
    (rows, columns), examples = w.shape, math.prod(x.shape[:-1])
    return (
        not sharded
        and columns >= LEAST_COLUMNS
        and rows >= LEAST_ROWS_A_COLUMN * columns
        and examples >= LEAST_EXAMPLES_A_COLUMN * columns
    )


def _by_transpose(equation: Any) -> list[Any]:
    """`x @ w` as `x (w')'`."""
    x, w = equation.invars
    # Without the barrier XLA sees that the two transposes cancel, and makes the first product of it again.
    turned, kept = (Var(w.aval.update(shape=w.aval.shape[::-1])) for _ in range(2))
    dimensions = (((x.aval.ndim - 1,), (1,)), ((), ()))
    transpose, barrier = jax.lax.transpose_p, jax.lax.optimization_barrier_p
    return [
        equation.replace(
            invars=[w], outvars=[turned], primitive=transpose, params={"permutation": (1, 0)}
        ),
        equation.replace(invars=[turned], outvars=[kept], primitive=barrier, params={}),
        equation.replace(
            invars=[x, kept], params=equation.params | {"dimension_numbers": dimensions}
        ),
    ]
