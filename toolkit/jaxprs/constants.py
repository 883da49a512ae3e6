"""A traced program as a function of its constants, also of those within the `jit`s and `scan`s that it calls.

JAX keeps an array that a jitted function closes over inside the program of that function. Runs of several
seeds often differ in such arrays alone. They can share one compiled program once these arrays are arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import jax
import numpy as np

from toolkit.jaxprs.classes import Literal
from toolkit.jaxprs.loops import scan_parts
from toolkit.jaxprs.read import evaluate_equation

# The primitives whose inner constants are replaced. Constants inside any other primitive stay part of the
# program: `literals` yields them, so that two programs which differ in them can be told apart.
OPENED = ("jit", "scan")


def constants(closed: Any) -> list[Any]:
    """The arrays that a closed jaxpr holds, in the order in which `evaluate_with` takes them."""
    inner = [c for equation in closed.jaxpr.eqns for c in _inner_constants(equation)]
    return [*closed.consts, *inner]


def opened(equation: Any) -> bool:
    """Whether the program within this equation has constants, which `evaluate_with` replaces."""
    return bool(_inner_constants(equation))


def evaluate_with(closed: Any, values: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """The results of a closed jaxpr whose constants are replaced by `values`.

    Args:
      values: one for each of `constants(closed)`, in that order, of the same shapes and dtypes.
      arguments: the operands of the program.
    """
    # The values of inner programs follow in the order of the equations, so one iterator serves all levels.
    pending = iter(values)
    known: dict[Any, Any] = dict(
        zip(closed.jaxpr.constvars, _take(pending, closed.consts), strict=True)
    )
    known |= zip(closed.jaxpr.invars, arguments, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for equation in closed.jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        own = _take(pending, _inner_constants(equation))
        known |= zip(equation.outvars, _results(equation, own, inputs), strict=True)
    return [read(atom) for atom in closed.jaxpr.outvars]


def literals(jaxpr: Any, replaced: bool = True) -> Iterator[Any]:
    """Numbers written into a program, and the arrays in it that `evaluate_with` cannot replace.

    Two programs of the same text may still differ in these, because the text of a program shortens arrays.

    Args:
      replaced: whether `evaluate_with` replaces the constants of the `jit`s and `scan`s at this level.
    """
    for equation in jaxpr.eqns:
        yield from (atom.val for atom in equation.invars if hasattr(atom, "val"))
        lifted = replaced and opened(equation)
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                if hasattr(part, "consts") and hasattr(part, "jaxpr"):
                    yield from () if lifted else part.consts
                    yield from literals(part.jaxpr, lifted)
                elif hasattr(part, "eqns"):
                    yield from literals(part, False)
                elif isinstance(part, np.ndarray | jax.Array):
                    yield part


def _results(equation: Any, own: Sequence[Any], inputs: Sequence[Any]) -> Sequence[Any]:
    # Only equations that hold constants are taken apart. All others are bound as JAX made them, so that XLA
    # compiles the same operations and the results keep their bits.
    if own and equation.primitive.name == "scan":
        return _scan(equation, own, inputs)
    if own:
        return evaluate_with(equation.params["jaxpr"], own, inputs)
    return evaluate_equation(equation, inputs)


def _scan(equation: Any, own: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    loop = scan_parts(equation)
    fixed, start, xs = map(list, loop.parted(inputs))

    def body(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        results = evaluate_with(loop.body, own, [*fixed, *carry, *x])
        return results[: loop.carried], results[loop.carried :]

    carry, ys = jax.lax.scan(body, start, xs, loop.length, reverse=loop.reverse, unroll=loop.unroll)
    return [*carry, *ys]


def _inner_constants(equation: Any) -> list[Any]:
    return constants(equation.params["jaxpr"]) if equation.primitive.name in OPENED else []


def _take(pending: Iterator[Any], like: Sequence[Any]) -> list[Any]:
    return list(islice(pending, len(like)))
