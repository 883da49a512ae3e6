"""How a program itself lays out its results over devices."""

from __future__ import annotations

from typing import Any

from jax.sharding import NamedSharding

from toolkit.jaxprs.classes import Literal
from toolkit.jaxprs.read import called, opened


def own_shardings(computation: Any) -> list[NamedSharding | None]:
    """The sharding that each result is given by the operation that makes it; None where nothing says so.

    The operations are `jax.lax.with_sharding_constraint` and `jax.device_put`, also at the end of a function
    that `jax.jit` compiles.
    """
    jaxpr, _ = opened(computation)
    made = {
        variable: (equation, position)
        for equation in jaxpr.eqns
        for position, variable in enumerate(equation.outvars)
    }
    return [
        None if isinstance(out, Literal) or out not in made else _given(*made[out])
        for out in jaxpr.outvars
    ]


def _given(equation: Any, position: int) -> NamedSharding | None:
    name, params = equation.primitive.name, equation.params
    if name == "sharding_constraint":
        found = params["sharding"]
    elif name == "device_put":
        found = params["devices"][position]
    else:
        program = called(equation)
        return None if program is None else own_shardings(program)[position]
    return found if isinstance(found, NamedSharding) else None
