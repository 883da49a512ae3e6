"""The collectives of a program (psum, all_gather, ...), and what they combine between devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from toolkit.jaxprs.read import called, inner, opened

# They name a device axis too, but combine nothing.
_NO_COLLECTIVES = ("axis_index", "pcast", "pvary")


def collective_axes(computation: Any, marked: Sequence[bool]) -> frozenset[str]:
    """The device axes over which a collective combines what depends on the marked arguments."""
    return frozenset(_found(computation, marked))


def _found(computation: Any, marked: Sequence[bool]) -> Iterator[str]:
    jaxpr, _ = opened(computation)
    known = {id(v) for v, one in zip(jaxpr.invars, marked, strict=True) if one}
    for equation in jaxpr.eqns:
        read = [id(atom) in known for atom in equation.invars]
        if not any(read):
            continue
        # What an equation calls is looked at more closely. The programs of a loop or of a condition count
        # as reading all that the equation reads.
        program = called(equation)
        if program is not None:
            yield from _found(program, read)
        else:
            for one in inner(equation):
                yield from _found(one, [True] * len(opened(one)[0].invars))
            yield from _axes(equation)
        known |= {id(variable) for variable in equation.outvars}


def _axes(equation: Any) -> list[str]:
    """The device axes that a collective combines; none of another equation."""
    if equation.primitive.name in _NO_COLLECTIVES:
        return []
    axes = equation.params.get("axes", equation.params.get("axis_name", ()))
    # The axes of an array, as `reduce_sum` has them, are integers.
    return [
        axis for axis in (axes if isinstance(axes, tuple) else (axes,)) if isinstance(axis, str)
    ]
