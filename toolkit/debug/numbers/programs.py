"""The programs inside an equation, with the numbers that they are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from toolkit.jaxprs.names import ClosedJaxpr, Jaxpr
from toolkit.jaxprs.read import opened

# Calls of functions that have a name.
CALLS = frozenset({"jit", "pjit", "custom_jvp_call", "custom_vjp_call", "closed_call"})


def inner_programs(equation: Any, numbers: Sequence[Any]) -> Iterator[tuple[Any, Sequence[Any]]]:
    """The programs in an equation, with the numbers that they are given."""
    name, params = equation.primitive.name, equation.params
    if name == "while":
        split, rest = params["cond_nconsts"], params["body_nconsts"]
        carry = [None] * (len(numbers) - split - rest)
        yield params["cond_jaxpr"], [*numbers[:split], *carry]
        yield params["body_jaxpr"], [*numbers[split : split + rest], *carry]
        return
    if name == "scan":
        consts, _ = scan_counts(equation)
        yield params["jaxpr"], [*numbers[:consts], *[None] * (len(numbers) - consts)]
        return
    for inner in programs(params.values()):
        count = len(opened(inner)[0].invars)
        given = list(numbers[1:] if name == "cond" else numbers)
        yield inner, given if len(given) == count else [None] * count


def programs(values: Any) -> Iterator[Any]:
    """The programs among an equation's parameters."""
    for value in values:
        if isinstance(value, (Jaxpr, ClosedJaxpr)):
            yield value
        elif isinstance(value, tuple):
            yield from programs(value)


def scan_counts(equation: Any) -> tuple[int, int]:
    """How many constants and carried values a scan has."""
    params = equation.params
    if "ft_in" in params:  # JAX 0.12
        consts, carry = (len(part) for part in params["ft_in"].unpack()[:2])
        return consts, carry
    return params["num_consts"], params["num_carry"]


def name_of(equation: Any) -> str:
    """What an equation does: its primitive, or the function that it calls."""
    name = equation.primitive.name
    if name not in CALLS:
        return str(name)
    called = equation.params.get("name") or ""
    if not called:
        jaxpr, _ = opened(equation.params.get("call_jaxpr"))
        source = getattr(getattr(jaxpr, "debug_info", None), "func_src_info", None) or name
        called = source.partition(" at ")[0].rpartition(".")[2]
    return str(called).lstrip("_")
