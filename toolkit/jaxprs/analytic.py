"""Which operations of a program have no complex derivative?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from toolkit.jaxprs.read import inner, opened
from toolkit.jaxprs.recorded_lines import definition

# JAX orders complex numbers by their real parts, then by their imaginary ones.
_ORDER = (
    "argmax",
    "argmin",
    "clamp",
    "cummax",
    "cummin",
    "max",
    "min",
    "reduce_max",
    "reduce_min",
    "reduce_window_max",
    "reduce_window_min",
    "select_and_gather_add",
    "select_and_scatter_add",
    "sort",
)
_PARTS = ("abs", "conj", "imag", "real", "round", "sign")
# Analytic, though written with `max` and `real` so that it does not overflow.
_SAFE = "logaddexp"


def unanalytic(computation: Any) -> list[str]:
    """The operations that order complex numbers or take their parts: "max in relu", "conj".

    Only those that a result depends on. What passes `stop_gradient` does not count: the largest exponent in a
    log-sum-exp is subtracted and added again.
    """
    first: dict[str, str] = {}
    for name, place in _found(computation, ""):
        first.setdefault(name, name if place in ("", name) else f"{name} in {place}")
    return list(first.values())


def _found(computation: Any, within: str) -> Iterator[tuple[str, str]]:
    """Every such operation, and the function that it stands in."""
    for equation in _needed(computation):
        if _is_unanalytic(equation):
            yield equation.primitive.name, within
            continue
        for program in inner(equation):
            function = definition(program).name
            if function != _SAFE:
                yield from _found(program, _readable(function) or within)


def _needed(computation: Any) -> list[Any]:
    """The equations that a result depends on otherwise than through `stop_gradient`."""
    jaxpr, _ = opened(computation)
    wanted, needed = set(map(id, jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        is_read = any(id(variable) in wanted for variable in equation.outvars)
        if is_read and equation.primitive.name != "stop_gradient":
            wanted.update(map(id, equation.invars))
            needed.append(equation)
    return needed[::-1]


def _is_unanalytic(equation: Any) -> bool:
    if not any(map(_is_complex, equation.invars)):
        return False
    name = equation.primitive.name
    narrowed = name == "convert_element_type" and not any(map(_is_complex, equation.outvars))
    return name in _ORDER or name in _PARTS or narrowed


def _is_complex(atom: Any) -> bool:
    return jnp.issubdtype(getattr(atom.aval, "dtype", bool), jnp.complexfloating)


def _readable(name: str) -> str:
    """A name that a reader knows: not `<lambda>`, not `_where`."""
    return name if name.isidentifier() and not name.startswith("_") else ""
