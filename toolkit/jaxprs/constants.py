"""A traced program as a function of its constants, also of those within the `jit`s and `scan`s that it calls.

JAX keeps an array that a jitted function closes over inside the program of that function. Seeds that differ in such an
array run the same program on other data, and for that the array has to become an argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import jax
from jax.extend.core import Literal

from toolkit.jaxprs.read import evaluated

OPENED = ("jit", "pjit", "scan")


def constants(closed: Any) -> list[Any]:
    """The arrays that a closed jaxpr holds, in the order in which `evaluate` takes them."""
    inner = [c for equation in closed.jaxpr.eqns for c in _inner_constants(equation)]
    return [*closed.consts, *inner]


def opened(equation: Any) -> bool:
    """Whether `evaluate` calls the program within this equation with constants of its own."""
    return bool(_inner_constants(equation))


def evaluate(closed: Any, values: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """The results of a closed jaxpr whose constants are replaced by `values`."""
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


def _results(equation: Any, own: Sequence[Any], inputs: Sequence[Any]) -> Sequence[Any]:
    if own and equation.primitive.name == "scan":
        return _scan(equation.params, own, inputs)
    if own:
        return evaluate(equation.params["jaxpr"], own, inputs)
    return evaluated(equation, inputs)


def _scan(parameters: dict[str, Any], own: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    if "num_carry" in parameters:
        consts, carried = parameters["num_consts"], parameters["num_carry"]
    else:  # jax 0.12
        consts, carried = (len(list(part)) for part in parameters["ft_in"].unpack()[:2])
    closed, fixed = parameters["jaxpr"], inputs[:consts]

    def body(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        results = evaluate(closed, own, [*fixed, *carry, *x])
        return results[:carried], results[carried:]

    start, xs = list(inputs[consts : consts + carried]), list(inputs[consts + carried :])
    how = {name: parameters[name] for name in ("length", "reverse", "unroll")}
    carry, ys = jax.lax.scan(body, start, xs, **how)
    return [*carry, *ys]


def _inner_constants(equation: Any) -> list[Any]:
    return constants(equation.params["jaxpr"]) if equation.primitive.name in OPENED else []


def _take(pending: Iterator[Any], like: Sequence[Any]) -> list[Any]:
    return list(islice(pending, len(like)))
