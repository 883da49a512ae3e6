"""Which inputs a program's values move with, equation by equation; nothing is run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp

from toolkit.debug.dead import custom_rules
from toolkit.debug.dead.bounds import ANY, ZERO, join, of_constant, of_equation, widened
from toolkit.debug.dead.kills import Cause, Dependence, Kill, buried, causes, integer_cause
from toolkit.debug.source_lines import NOWHERE, Origin, SourceLine, origin
from toolkit.jaxprs.loops import branches, scan_parts, shard_parts, solve_parts, while_parts
from toolkit.jaxprs.operations import name_called
from toolkit.jaxprs.read import called, opened

# Result i moves with operand i alone.
_POSITIONAL = {"optimization_barrier", "sort", "psum", "psum_invariant"}
_PATIENCE = 3  # passes over a loop before bounds that still move are given up


@dataclass(frozen=True)
class FlowScope:
    """What surrounds an equation."""

    place: SourceLine = NOWHERE
    call: str = ""  # name of the innermost jitted wrapper without lines of its own
    in_loop: bool = False
    in_rule: bool = False  # in the program of a derivative, of which only the values count
    stops: dict[int, Kill] = field(default_factory=dict)  # where this package stopped which input
    traced: dict[Any, Any] = field(default_factory=dict)  # custom rules that were traced already
    clock: Iterator[int] = field(default_factory=itertools.count)  # numbers the kills
    refused: set[int] = field(default_factory=set)  # inputs that met a rule which cannot be traced


def analyse(jaxpr: Any, arguments: Sequence[Dependence], scope: FlowScope) -> list[Dependence]:
    """The values of the results of `jaxpr` (closed or open), from those of its arguments."""
    inner, constants = opened(jaxpr)
    known: dict[Any, Dependence] = dict(zip(inner.invars, arguments, strict=True))
    for variable, constant in zip(inner.constvars, constants, strict=False):
        known[variable] = Dependence(bounds=of_constant(constant))

    def read(atom: Any) -> Dependence:
        if hasattr(atom, "val"):
            return Dependence(bounds=of_constant(atom.val))
        return known.get(atom) or Dependence()

    for equation in inner.eqns:
        values = [read(atom) for atom in equation.invars]
        known.update(zip(equation.outvars, _transfer(equation, values, scope), strict=True))
    return [read(atom) for atom in inner.outvars]


def _transfer(equation: Any, values: list[Dependence], scope: FlowScope) -> list[Dependence]:
    name, source = equation.primitive.name, origin(equation)
    program = shard_parts(equation).body if name == "shard_map" else called(equation)
    if program is not None and name not in custom_rules.NAMES:
        return analyse(program, values, _entered(equation, source, scope))
    at = scope if not source.known else replace(scope, place=source.place, call="")
    if name == "scan":
        return _scan(equation, values, at)
    if name == "while":
        return _while(equation, values, at)
    if name == "cond":
        return _cond(branches(equation), values, at)
    if name == "custom_linear_solve":
        return _linear_solve(equation, values, at)
    if name in custom_rules.NAMES:
        return custom_rules.transfer(equation, values, at, analyse)
    if name in _POSITIONAL and len(values) == len(equation.outvars):
        return [Dependence(value.live, value.dead, value.bounds) for value in values]
    if name == "select_n":
        condition = _deciding(values[0], "`where`/`select`", at)
        # The condition is looked at last: the user learns more from a kill in a case than from the fact
        # that a condition has no derivative.
        values = [replace(values[0], dead={}), *values[1:], condition]
    return _elementary(equation, values, source, at)


def _entered(equation: Any, source: Origin, scope: FlowScope) -> FlowScope:
    """The scope inside a call. Wrappers of `jax.numpy` record no line, so the line of their caller stands."""
    if source.known:
        scope = replace(scope, place=source.place, call="")
    return replace(scope, call=scope.call or name_called(equation).lstrip("_"))


def _elementary(
    equation: Any, values: list[Dependence], source: Origin, at: FlowScope
) -> list[Dependence]:
    """An equation without programs in it; one that is not known moves with all its operands."""
    # `values` may hold one more than there are operands: what the condition of a `where` adds.
    operands = values[: len(equation.invars)]
    ends = causes(equation, operands)
    results = []
    for number, variable in enumerate(equation.outvars):
        dtype = variable.aval.dtype
        if not jnp.issubdtype(dtype, jnp.inexact):
            ends = dict.fromkeys(range(len(operands)), integer_cause(equation, dtype))
        live: set[int] = set()
        dead = buried(*values)
        for position, value in enumerate(operands):
            if position not in ends:
                live |= value.live
            elif source.ours and ends[position].what == "`stop_gradient`":
                live |= _stopped(value, source, at)
            else:
                kill = _kill(equation, ends[position], source, at)
                dead = buried(
                    Dependence(dead=dead), Dependence(dead=dict.fromkeys(value.live, kill))
                )
        first = number == 0
        bounds = of_equation(equation, [v.bounds for v in operands]) if first else ANY
        results.append(Dependence(frozenset(live), dead, bounds))
    return results


def _kill(equation: Any, cause: Cause, source: Origin, at: FlowScope) -> Kill:
    # Within a wrapper of `jax.numpy` a comparison or a branch is part of how the wrapper works. It counts
    # less than a kill that the user has written; an operation that is flat by itself, such as `ceil`, counts
    # in full.
    rank = 1 if source.ours or (at.call and not cause.flat) else 0
    # The wrapper is named, such as `trunc`, not the operation `ceil` inside it, which the user has not
    # written.
    what = f"`{at.call}`" if at.call else cause.what
    return Kill(what, cause.why, at.place, rank, at.in_loop, order=next(at.clock))


def _stopped(value: Dependence, source: Origin, at: FlowScope) -> set[int]:
    """The labels behind a `stop_gradient` of this package: `~i` in place of `i`; `at.stops` notes it."""
    why = "by this rule no gradient passes there"
    for label in value.live:
        kill = Kill(f"`stop_gradient` of {source.ours}", why, at.place, 1, at.in_loop)
        at.stops.setdefault(label if label >= 0 else ~label, kill)
    return {label if label < 0 else ~label for label in value.live}


def _deciding(value: Dependence, user: str, at: FlowScope) -> Dependence:
    """What a condition adds to a result: inputs that do not move it and only decide which case is taken."""
    return Dependence(
        dead={label: kill.deciding(user, at.place) for label, kill in value.dead.items()}
    )


def _joined(values: Sequence[Dependence]) -> Dependence:
    """What holds of whichever of these is taken."""
    live = frozenset().union(*(value.live for value in values))
    return Dependence(live, buried(*values), join(*(value.bounds for value in values)))


def _same(a: Dependence, b: Dependence) -> bool:
    return a.live == b.live and a.bounds == b.bounds and a.dead.keys() == b.dead.keys()


def _settled(step: Any, start: list[Dependence]) -> tuple[list[Dependence], list[Dependence]]:
    """The carry before any iteration of a loop, and what an iteration returns for it.

    The passes go on until nothing changes. They end, because the sets of inputs only grow, and bounds that
    still move after some passes are widened to infinity.
    """
    # Each leaf is a new object. Two leaves may start from one array, and `a - b` would count as the zero of
    # `x - x`, although the leaves differ after one step.
    carry, passes = [replace(value) for value in start], 0
    while True:
        result = step(carry)
        new = [_joined(pair) for pair in zip(carry, result[: len(carry)], strict=True)]
        if passes >= _PATIENCE:
            new = [
                replace(after, bounds=widened(before.bounds, after.bounds))
                for before, after in zip(carry, new, strict=True)
            ]
        if all(_same(a, b) for a, b in zip(carry, new, strict=True)):
            return new, result
        carry, passes = new, passes + 1


def _scan(equation: Any, values: list[Dependence], at: FlowScope) -> list[Dependence]:
    loop, body = scan_parts(equation), replace(at, in_loop=True)
    consts, start, items = loop.parted(values)
    # New objects: a slice of an array is not the same value as the array, which may be a constant here too.
    xs = [replace(value) for value in items]

    def step(carry: list[Dependence]) -> list[Dependence]:
        return analyse(loop.body, [*consts, *carry, *xs], body)

    _, result = _settled(step, list(start))
    if loop.length == 0:
        return [*start, *(Dependence() for _ in result[loop.carried :])]
    # There is at least one iteration, so the results are those of an iteration, never the start itself. An
    # input that moves the start alone is dead if no iteration passes it on. New objects again, as the stacked
    # outputs of all steps are not the same value as the last carry.
    return [replace(value) for value in result]


def _while(equation: Any, values: list[Dependence], at: FlowScope) -> list[Dependence]:
    loop, body = while_parts(equation), replace(at, in_loop=True)
    of_condition, of_body, start = loop.parted(values)
    # The body may run zero times, so the results are the start or those of an iteration: the joined carry.
    carry, _ = _settled(lambda c: analyse(loop.body, [*of_body, *c], body), list(start))
    goes_on = analyse(loop.condition, [*of_condition, *carry], body)[0]
    condition = _deciding(goes_on, "the loop", at)
    return [replace(value, dead=buried(value, condition)) for value in carry]


def _cond(programs: Sequence[Any], values: list[Dependence], at: FlowScope) -> list[Dependence]:
    index, operands = values[0], values[1:]
    condition = _deciding(index, "`cond`", at)
    low, high = index.bounds
    # Bounds on the index leave out branches that are never taken: a Python bool is a constant here. JAX
    # clips an index that is out of range.
    first, last = max(0, int(max(low, 0))), int(min(high, len(programs) - 1))
    taken = [analyse(branch, operands, at) for branch in programs[first : max(last, first) + 1]]
    if not taken:
        taken = [analyse(programs[-1], operands, at)]
    results = [_joined(choices) for choices in zip(*taken, strict=True)]
    return [replace(value, dead=buried(value, condition)) for value in results]


def _linear_solve(equation: Any, values: list[Dependence], at: FlowScope) -> list[Dependence]:
    """`A x = b` moves with b and with what the product with A moves with: dx = A^-1 (db - dA x)."""
    parts = solve_parts(equation)
    matrix = values[: parts.product_constants]
    settings = values[parts.product_constants : parts.constants]
    right = values[parts.constants :]
    product = analyse(parts.product, [*matrix, *(Dependence() for _ in right)], at)
    moving = _joined([*product, *right])
    zero = all(value.bounds == ZERO for value in right)
    x = replace(moving, bounds=ZERO if zero else ANY)
    kill = Kill("the report of a linear solve", "it has no derivative", at.place, 1, at.in_loop)
    lost = frozenset().union(moving.live, *(value.live for value in settings))
    aux = Dependence(dead=buried(moving, *settings, Dependence(dead=dict.fromkeys(lost, kill))))
    x = replace(x, dead=buried(x, *settings, Dependence(dead=dict.fromkeys(lost - x.live, kill))))
    solutions = [replace(x) for _ in right]
    return [*solutions, *(aux for _ in equation.outvars[len(right) :])]
