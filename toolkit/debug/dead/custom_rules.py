"""Custom derivative rules, traced: which operands the derivative that a rule makes depends on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.debug.dead.bounds import ZERO
from toolkit.debug.dead.kills import Dependence, Kill, buried
from toolkit.errors.frames import is_jax, is_ours
from toolkit.jaxprs.classes import DropVar
from toolkit.jaxprs.read import called, evaluate_equation
from toolkit.jaxprs.recorded_lines import definition

NAMES = {"custom_jvp_call", "custom_vjp_call"}
_MOST_APART = 8  # operands of a rule that are traced one by one
Analyse = Callable[[Any, Sequence[Dependence], Any], list[Dependence]]


class Owner(NamedTuple):
    """Whose rule it is."""

    name: str
    place: str
    ours: bool
    jax: bool


def transfer(
    equation: Any, values: list[Dependence], at: Any, analyse: Analyse
) -> list[Dependence]:
    """The results of a function with its own derivative rule.

    Live is what the rule lets through, whatever the function itself does: a straight-through `round`
    is alive, and a backward pass that returns zeros is not.
    """
    body_jaxpr = called(equation)
    if at.in_rule:  # a rule's program is not differentiated again: `odeint` calls itself there
        return analyse(body_jaxpr, values, at)
    # The body of a rule of JAX or of this package agrees with its derivative, and says why a path ends. A
    # user's rule may well be there because the body's own derivative is of no use.
    owner = _owner(body_jaxpr)
    reached = _reached(equation, values, at, analyse)
    trusted = owner.ours or owner.jax  # of the user's rules the body says nothing
    body = analyse(body_jaxpr, values, at) if trusted else [Dependence() for _ in equation.outvars]
    what = f"the derivative rule of `{owner.name}` ({owner.place})"
    kill = Kill(what, "it gives zero for this operand", at.place, 2 if trusted else 0, at.in_loop)
    results = []
    for inside, operands in zip(body, reached, strict=True):
        live = frozenset().union(*(values[i].live for i in operands))
        # What this package has stopped (`~i`) is followed on through the body, to where its rule
        # differentiates it.
        if owner.ours:
            live |= {label for label in inside.live if label < 0}
        lost = frozenset().union(*(value.live for value in values)) - live
        # For what the rule loses, the body may name the line; the rule as a whole is named otherwise.
        found = {label: cause for label, cause in inside.dead.items() if label in lost}
        dead = buried(*values, Dependence(dead=found), Dependence(dead=dict.fromkeys(lost, kill)))
        results.append(Dependence(live, dead, inside.bounds if owner.jax else Dependence().bounds))
    return results


def _owner(jaxpr: Any) -> Owner:
    name, place = definition(jaxpr)
    file = place.rpartition(":")[0]
    return Owner(name or "it", place, is_ours(file), is_jax(file))


def _reached(equation: Any, values: list[Dependence], at: Any, analyse: Analyse) -> list[set[int]]:
    """For each result, the operands (by position) that move it according to the derivative rule."""
    moving = tuple(
        position
        for position, (atom, value) in enumerate(zip(equation.invars, values, strict=True))
        if value.live and jnp.issubdtype(atom.aval.dtype, jnp.inexact)
    )
    if not moving:
        return [set() for _ in equation.outvars]
    # One trace for each operand tells them apart even where a rule concatenates them. Where they are many
    # that would be slow, and one trace with all of them moving has to do.
    groups = [(position,) for position in moving] if len(moving) <= _MOST_APART else [moving]
    reached = [_of_group(equation, group, values, at, analyse) for group in groups]
    return [set().union(*sets) for sets in zip(*reached, strict=True)]


def _of_group(
    equation: Any, moving: tuple[int, ...], values: list[Dependence], at: Any, analyse: Analyse
) -> list[set[int]]:
    key = (id(equation), moving)
    if key not in at.traced:
        trace = _trace_vjp if equation.primitive.name != "custom_jvp_call" else _trace_jvp
        # The equation is kept too: were it freed, another one could get its id and its entry.
        at.traced[key] = (equation, _attempt(trace, equation, moving))
    traced = at.traced[key][1]
    if traced is None:  # it refuses to be traced: no alarm
        at.refused.update(label for position in moving for label in values[position].live)
        return [set(moving) for _ in equation.outvars]
    bounds = [Dependence(bounds=value.bounds) for value in values]
    scope = replace(at, stops={}, refused=set(), in_rule=True)
    if isinstance(traced, _Forward):
        return _along(traced, equation, moving, bounds, scope, analyse)
    return _against(traced, equation, moving, bounds, scope, analyse)


class _Forward(NamedTuple):
    jaxpr: Any  # (operands, tangents of the moving ones) -> tangents of the results


class _Reverse(NamedTuple):
    jaxpr: Any  # (operands, cotangents of the inexact results) -> cotangents of the moving operands


def _along(
    traced: _Forward,
    equation: Any,
    moving: Sequence[int],
    values: list[Dependence],
    scope: Any,
    analyse: Analyse,
) -> list[set[int]]:
    tangents = [Dependence(frozenset([position])) for position in moving]
    moved = iter(analyse(traced.jaxpr, [*values, *tangents], scope))
    return [
        _alive(next(moved)) if not isinstance(variable, DropVar) else set()
        for variable in equation.outvars
    ]


def _against(
    traced: _Reverse,
    equation: Any,
    moving: Sequence[int],
    values: list[Dependence],
    scope: Any,
    analyse: Analyse,
) -> list[set[int]]:
    numbers = [i for i, variable in enumerate(equation.outvars) if _is_inexact(variable)]
    cotangents = [Dependence(frozenset([number])) for number in numbers]
    reached: list[set[int]] = [set() for _ in equation.outvars]
    pulled = analyse(traced.jaxpr, [*values, *cotangents], scope)
    for position, value in zip(moving, pulled, strict=True):
        if value.bounds == ZERO:
            continue
        # A backward rule may return an estimate that does not depend on the cotangent. Whatever it returns,
        # unless it is zero, counts for every result.
        for number in _alive(value) or numbers:
            reached[number].add(position)
    return reached


def _alive(value: Dependence) -> set[int]:
    return set() if value.bounds == ZERO else {label for label in value.live if label >= 0}


def _is_inexact(variable: Any) -> bool:
    dropped = isinstance(variable, DropVar)
    return not dropped and jnp.issubdtype(variable.aval.dtype, jnp.inexact)


def _attempt(trace: Callable[..., Any], equation: Any, moving: tuple[int, ...]) -> Any:
    """The traced rule, or None where it cannot be traced outside the place it stands in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the user has not asked for this derivative
        try:
            return trace(equation, moving)
        except Exception:
            return None


def _trace_jvp(equation: Any, moving: tuple[int, ...]) -> _Forward:
    run, avals = _as_function(equation)

    def tangents(operands: list[Any], dots: list[Any]) -> Any:
        def of_moving(*some: Any) -> list[Any]:
            return run(_replaced(operands, moving, some))

        _, results = jax.jvp(of_moving, [operands[i] for i in moving], dots)
        # The tangent of an integer result has the dtype float0, which no equation can read: 0 takes its
        # place.
        return [np.zeros(()) if r.dtype == jax.dtypes.float0 else r for r in results]

    return _Forward(jax.make_jaxpr(tangents)(avals, [avals[i] for i in moving]))


def _trace_vjp(equation: Any, moving: tuple[int, ...]) -> _Reverse:
    run, avals = _as_function(equation)
    outputs = [variable for variable in equation.outvars if _is_inexact(variable)]

    def cotangents(operands: list[Any], bars: list[Any]) -> Any:
        def of_moving(*some: Any) -> list[Any]:
            results = run(_replaced(operands, moving, some))
            return [r for r in results if jnp.issubdtype(r.dtype, jnp.inexact)]

        return jax.vjp(of_moving, *(operands[i] for i in moving))[1](bars)

    return _Reverse(jax.make_jaxpr(cotangents)(avals, [_shape(v) for v in outputs]))


def _replaced(operands: list[Any], moving: Sequence[int], some: Sequence[Any]) -> list[Any]:
    new = list(operands)
    for position, operand in zip(moving, some, strict=True):
        new[position] = operand
    return new


def _shape(atom: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype)


def _as_function(equation: Any) -> tuple[Callable[[list[Any]], list[Any]], list[Any]]:
    """One equation as a function of all its operands, literals too, and their shapes."""

    def run(operands: list[Any]) -> list[Any]:
        results = evaluate_equation(equation, operands)
        read = [not isinstance(variable, DropVar) for variable in equation.outvars]
        return [result for result, is_read in zip(results, read, strict=True) if is_read]

    return run, [_shape(atom) for atom in equation.invars]
