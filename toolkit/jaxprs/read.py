"""Traced programs (jaxprs): what they consist of, and their results, whatever the JAX release."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import numpy as np

from toolkit.jaxprs.classes import ClosedJaxpr, DropVar, Jaxpr
from toolkit.jaxprs.recorded_lines import transformations

# Equations that run one program on their own operands, and the name of the parameter that holds it.
_CALLS = {
    "call": "call_jaxpr",  # until jax 0.10.1; this and the next are `eval_jaxpr` since jax 0.12
    "closed_call": "call_jaxpr",
    "composite": "call_jaxpr",  # `jaxpr` until jax 0.10.1
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
    "eval_jaxpr": "call_jaxpr",
    "jit": "jaxpr",
    "remat2": "jaxpr",
}

_WIDE = tuple(map(np.dtype, ("int64", "uint64", "float64", "complex128")))


def opened(computation: Any) -> tuple[Any, Sequence[Any]]:
    """A program without its constants, and these.

    Until jax 0.10 a `ClosedJaxpr` holds a `Jaxpr` and its constants, and some primitives keep a `Jaxpr`
    alone. Since jax 0.12 every `Jaxpr` holds its constants.
    """
    return getattr(computation, "jaxpr", computation), getattr(computation, "consts", ())


def called(equation: Any) -> Any:
    """The program that an equation runs on its own operands, or None."""
    if equation.primitive.name == "linear_map":
        return _program_of_map(equation)
    params, name = equation.params, _CALLS.get(equation.primitive.name, "")
    # The second name is that of a `composite` until jax 0.10.1.
    return params.get(name, params.get("jaxpr")) if name else None


def inner(equation: Any) -> Iterator[Any]:
    """The programs within an equation: bodies, branches, what a `jit` calls."""
    return _programs(equation.params.values())


def evaluate(computation: Any, *operands: Any) -> list[Any]:
    """The results of a program that holds its constants. Its equations keep their source lines."""
    return evaluate_open(*opened(computation), *operands)


def evaluate_open(jaxpr: Any, constants: Sequence[Any], *operands: Any) -> list[Any]:
    """As `evaluate`, with these constants in place of the program's own."""
    return jax.core.eval_jaxpr(jaxpr, constants, *operands)


def constants_first(computation: Any) -> Any:
    """The program without the values of its constants: they are its first arguments."""
    program, _ = opened(computation)
    held: dict[str, Any] = {"consts": []} if hasattr(program, "consts") else {}  # since jax 0.12
    arguments = [*program.constvars, *program.invars]
    return program.replace(constvars=[], invars=arguments, **held)


def evaluate_equation(equation: Any, operands: Sequence[Any]) -> list[Any]:
    """The results of one equation."""
    primitive = equation.primitive
    # An equation holds a custom derivative rule as programs, but `bind` takes it as functions. This converts
    # them, so that the result is differentiated by the rule and not through the body.
    params = primitive.get_bind_params(equation.params)
    # The equation may depend on settings, such as the mesh or the kind of random bits, that have changed
    # since it was traced. Its context restores those that it was traced under.
    with equation.ctx.manager:
        results = primitive.bind(*operands, **params)
    return list(results) if primitive.multiple_results else [results]


def is_callback(equation: Any) -> bool:
    """Whether an equation is a print or a host callback whose results nothing reads.

    It can be left out without a change of any value. A second run of the program must leave it out, or every
    line would be printed twice.
    """
    name = equation.primitive.name
    silent = all(isinstance(variable, DropVar) for variable in equation.outvars)
    return silent and (name.startswith("debug_") or name.endswith("callback"))


def without_callbacks(equation: Any) -> Any:
    """The equation without the callbacks (see `is_callback`) in the programs within it."""
    if not equation.effects:
        return equation
    params = {name: _silenced(value) for name, value in equation.params.items()}
    programs = [value for value in params.values() if isinstance(value, (Jaxpr, ClosedJaxpr))]
    # An equation declares the effects of its programs: without the callbacks it has fewer.
    effects = frozenset[Any]().union(*(opened(one)[0].effects for one in programs))
    return equation.replace(params=params, effects=effects if programs else equation.effects)


def reverses(computation: Any) -> bool:
    """Whether it contains a backward pass, such as `jax.grad` makes."""
    jaxpr, _ = opened(computation)
    return any(
        "transpose" in transformations(equation) or any(map(reverses, inner(equation)))
        for equation in jaxpr.eqns
    )


def literal(atom: Any) -> Any:
    """The value of a literal, in the dtype that it had when the program was traced.

    A literal may be a Python number. JAX would give it the dtype that `jax_enable_x64` asks for now, and this
    setting may have changed since the trace.
    """
    value = atom.val
    return value if hasattr(value, "dtype") else np.asarray(value, atom.aval.dtype)


def wide(computation: Any) -> AbstractContextManager[Any]:
    """The context in which a program can run equation by equation.

    It is `jax.enable_x64` if some equation's result has 64 bits. Without it JAX would cut this result to
    32 bits, and the next equation would get another dtype than the one it was traced for.
    """
    return jax.enable_x64(True) if _is_wide(computation) else nullcontext()


def _is_wide(computation: Any) -> bool:
    jaxpr, _ = opened(computation)
    return any(
        any(getattr(v.aval, "dtype", None) in _WIDE for v in equation.outvars)
        or any(map(_is_wide, inner(equation)))
        for equation in jaxpr.eqns
    )


def first_reader(jaxpr: Any, variable: Any) -> tuple[int, Any]:
    """The position of the first equation that reads a constant, and the equation; (0, None) if none does."""
    for index, equation in enumerate(jaxpr.eqns):
        if any(atom is variable for atom in equation.invars):
            return index, equation
    return 0, None


def flow(computation: Any, inputs: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """Which labels reach each result. An equation passes the labels of all its operands to all its results.

    Args:
      inputs: the labels of each argument, such as the paths of the arrays that it depends on.
    """
    jaxpr, _ = opened(computation)
    nothing = frozenset[str]()
    known = {id(v): one for v, one in zip(jaxpr.invars, inputs, strict=True)}
    for equation in jaxpr.eqns:
        read = nothing.union(*(known.get(id(atom), nothing) for atom in equation.invars))
        made = [read] * len(equation.outvars)
        if (program := called(equation)) is not None:
            made = flow(program, [known.get(id(atom), nothing) for atom in equation.invars])
        known |= {id(v): one for v, one in zip(equation.outvars, made, strict=True)}
    return [known.get(id(atom), nothing) for atom in jaxpr.outvars]


def passed_through(computation: Any) -> list[int | None]:
    """For each argument of a program the number of the result that it is, unchanged; None where it is none."""
    jaxpr, _ = opened(computation)
    numbers = {id(atom): number for number, atom in enumerate(jaxpr.outvars)}
    return [numbers.get(id(variable)) for variable in jaxpr.invars]


def text(computation: Any) -> str:
    """A program as text, which is the same for two traces of one function."""
    return re.sub(r"0x[0-9a-f]+", "", str(opened(computation)[0]))


def _program_of_map(equation: Any) -> Any:
    """What an operation of `derive/linear_map.py` runs."""
    types = tuple(atom.aval for atom in equation.invars)
    return equation.params["forward"].program(equation.params["sizes"], types)


def _programs(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (Jaxpr, ClosedJaxpr)):
            yield value
        elif isinstance(value, tuple):
            yield from _programs(value)


def _silenced(value: Any) -> Any:
    if isinstance(value, tuple) and any(isinstance(one, (Jaxpr, ClosedJaxpr)) for one in value):
        return tuple(_silenced(one) for one in value)
    if not isinstance(value, (Jaxpr, ClosedJaxpr)):
        return value
    jaxpr, _ = opened(value)
    kept = [without_callbacks(equation) for equation in jaxpr.eqns if not is_callback(equation)]
    effects = frozenset[Any]().union(*(equation.effects for equation in kept))
    silent = jaxpr.replace(eqns=kept, effects=effects)
    return silent if jaxpr is value else value.replace(jaxpr=silent)
