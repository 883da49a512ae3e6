"""Where the results of a computation are made, and where a function is defined."""

from __future__ import annotations

import functools
import types
from typing import Any

from toolkit.debug.source_lines import NOWHERE, SourceLine, lines
from toolkit.jaxprs.classes import Literal
from toolkit.jaxprs.read import called, opened


def made_at(computation: Any) -> list[SourceLine]:
    """The user's line behind each result; `NOWHERE` of inputs, constants and numbers."""
    jaxpr, _ = opened(computation)
    return [_maker(jaxpr, atom, NOWHERE) for atom in jaxpr.outvars]


def code_of(fn: Any) -> types.CodeType | None:
    """The code below partials, methods and decorators; None where it is not written in Python."""
    while True:
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, types.MethodType):
            fn = fn.__func__
        elif hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        elif isinstance(fn, types.FunctionType):
            return fn.__code__
        elif isinstance(fn, type) or not isinstance(type(fn).__call__, types.FunctionType):
            return None
        else:
            fn = type(fn).__call__


def _maker(jaxpr: Any, atom: Any, around: SourceLine) -> SourceLine:
    if isinstance(atom, Literal):
        return NOWHERE
    for equation in jaxpr.eqns:
        for number, variable in enumerate(equation.outvars):
            if variable is not atom:
                continue
            place = lines(equation)[0]
            here = around if place == NOWHERE else place
            inner = called(equation)
            if inner is None:
                return here
            # The line inside of the called function says more than the line of the call. A function that
            # returns one of its operands has no such line, so the maker of that operand is looked for
            # instead.
            within, _ = opened(inner)
            result = within.outvars[number]
            if any(result is given for given in within.invars):
                operand = equation.invars[list(map(id, within.invars)).index(id(result))]
                return _maker(jaxpr, operand, around)
            found = _maker(within, result, here)
            return here if found == NOWHERE else found
    return NOWHERE
