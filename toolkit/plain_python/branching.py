"""Conditions on traced values: both branches are traced, and what they leave behind is merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from toolkit.jaxprs.read import evaluate
from toolkit.plain_python.errors import here, refuse
from toolkit.plain_python.jumps import RESULT
from toolkit.plain_python.lists import One, Run
from toolkit.plain_python.state import (
    Absent,
    Constant,
    Container,
    Decoder,
    Encoded,
    Growing,
    Node,
    Undefined,
    Variables,
    describe,
    difference,
    is_python_number,
    paths,
    same_structure,
    type_text,
)
from toolkit.plain_python.tracing import (
    Appended,
    Exit,
    Traced,
    changed_by_calls,
    encode_entry,
    trace,
    with_type,
    zeros,
)

_WORDS = ("if", "else")


class Merged(NamedTuple):
    """One leaf after the two branches; `aval` is None where it is the same in both."""

    value: Any
    aval: Any
    outputs: tuple[int | None, int | None]  # which result of each branch; None: never read there


def branch(
    variables: Variables,
    condition: Any,
    then: Callable[[], None],
    orelse: Callable[[], None],
    guard: str | None = None,
) -> None:
    """Run `if condition: then() else: orelse()` for a traced scalar.

    Args:
      guard: the condition is that this variable, which says that a loop was left, is false. What
        only `then` assigns is anything in the other case: the loop keeps what it was.
    """
    before = variables.values()
    entry = encode_entry(variables, before, loop=False)
    sides = [_side(variables, entry, run) for run in (then, orelse)]
    changed = {name for side in sides for name in changed_by_calls(variables, entry, side)}
    if changed:
        return branch(variables.changing(sorted(changed)), condition, then, orelse, guard)
    nodes: list[Node] = []
    leaves: list[list[Merged]] = []
    for k, name in enumerate(variables.names):
        changing = name in variables.mutated
        node, merged = _merge(name, [side.exits[k] for side in sides], guard, changing)
        nodes.append(node)
        leaves.append(merged)
    appended = _merge_appended(variables, sides)
    wanted = [one for merged in (*leaves, *appended) for one in merged if one.aval is not None]
    results = iter(_conditional(condition, sides, wanted))

    final = [
        [one.value if one.aval is None else with_type(next(results), one.aval) for one in merged]
        for merged in leaves
    ]
    decoder = Decoder(fresh=False, mutated=variables.mutated)
    values: list[Any] = [None] * len(nodes)
    for k in variables.order():
        values[k] = decoder.decode(variables.names[k], nodes[k], final[k])
    for k, node in enumerate(nodes):
        if isinstance(node, Growing) or variables.names[k] in variables.watched:
            values[k] = before[k]
    for one, merged in zip(sides[0].appended, appended, strict=True):
        before[one.variable].add(_chunks(one, [next(results) for _ in merged]))
    variables.write(*values)


def _side(variables: Variables, entry: list[Encoded], run: Callable[[], None]) -> Traced:
    return trace(variables, entry, lambda _: run(), as_inputs=False, conditional=True)


def _conditional(condition: Any, sides: Sequence[Traced], wanted: list[Merged]) -> list[Any]:
    def run(side: int) -> Callable[[], list[Any]]:
        def compute() -> list[Any]:
            found = evaluate(sides[side].jaxpr)
            return [
                zeros(one.aval)
                if one.outputs[side] is None
                else with_type(found[one.outputs[side]], one.aval, weak=False)  # type: ignore[index]
                for one in wanted
            ]

        return compute

    acts = any(side.jaxpr.effects for side in sides)  # it prints, say
    return jax.lax.cond(condition, run(0), run(1)) if wanted or acts else []


def _chunks(one: Appended, results: list[Any]) -> list[Run | One]:
    pending = iter(results)
    made: list[Run | One] = []
    for count, structure in zip(one.counts, one.structures, strict=True):
        tree = jax.tree.unflatten(structure, [next(pending) for _ in range(structure.num_leaves)])
        made.append(One(tree) if count is None else Run(count, tree))
    return made


def _merge_appended(variables: Variables, sides: Sequence[Traced]) -> list[list[Merged]]:
    """What both branches append alike; anything else makes a length depend on data."""
    by_variable = [{one.variable: one for one in side.appended} for side in sides]
    merged = []
    for k in sorted({*by_variable[0], *by_variable[1]}):
        name = variables.names[k]
        pair = [found.get(k) for found in by_variable]
        if pair[0] is None or pair[1] is None or _shape(pair[0]) != _shape(pair[1]):
            place = next(one.place for one in pair if one)
            raise place.refuse(data_dependent_length(name, "under a traced condition"))
        outputs = [[o for chunk in one.outputs for o in chunk] for one in pair if one]
        avals = [
            [side.jaxpr.out_avals[o] for o in own] for side, own in zip(sides, outputs, strict=True)
        ]
        both = []
        for a, b, *outs in zip(*avals, *outputs, strict=True):
            common = _common(a, b)
            if common is None:
                raise refuse(
                    f"`{name}.append` adds {type_text(a)} in the if branch and {type_text(b)} in the "
                    "else branch: append values of one shape and dtype."
                )
            both.append(Merged(None, common, (outs[0], outs[1])))
        merged.append(both)
    return merged


def data_dependent_length(name: str, where: str) -> str:
    """What to say of an append that may or may not happen."""
    return (
        f"`{name}.append` {where}: the list length would depend on data. Append "
        "jnp.where(cond, value, fill), or write into an array of fixed size and keep a count."
    )


def _shape(one: Appended) -> list[Any]:
    return [*one.counts, *one.structures]


def _merge(
    name: str, exits: list[Exit], guard: str | None, changing: bool
) -> tuple[Node, list[Merged]]:
    """A variable after the two branches, or an `Undefined` that says how they disagree."""
    a, b = exits
    if name == guard and len(a.leaves) == 1 and a.leaves[0] is True:
        return a.node, [Merged(True, None, (None, None))]  # left in this iteration, or before
    absent = [isinstance(exit.node, Absent) for exit in exits]
    if all(absent):
        return a.node, []
    if any(absent):
        there = absent.index(False)
        if name == RESULT or (guard and there == 0):  # read only where a flag says that it was set
            return exits[there].node, [
                Merged(None, aval, (None, out) if there else (out, None))
                for aval, out in zip(exits[there].types, exits[there].outputs, strict=True)
            ]
        lacking = exits[1 - there].node
        assert isinstance(lacking, Absent)
        return _absent(name, lacking.undefined.reason or _one_sided(there)), []
    if isinstance(a.node, Growing) and isinstance(b.node, Growing):
        return a.node, []
    if not same_structure(a.node, b.node):
        return _absent(name, _disagreement(name, exits)), []
    merged = []
    for k, (left, right) in enumerate(zip(a.leaves, b.leaves, strict=True)):
        if _is_same(left, right):
            merged.append(Merged(left, None, (None, None)))
            continue
        common = _common(a.types[k], b.types[k])
        if common is None:
            return _absent(name, _disagreement(name, exits)), []
        merged.append(Merged(None, common, (a.outputs[k], b.outputs[k])))
    if changing and _two_objects(a.node, b.node):
        return _absent(name, _two_of_them(name)), []
    return _with_common_origin(a.node, b.node), merged


def _is_same(left: Any, right: Any) -> bool:
    """Whether both branches leave the same value, known outside them."""
    if left is right and left is not None:
        return True
    numbers = is_python_number(left) and is_python_number(right)
    return numbers and type(left) is type(right) and repr(left) == repr(right)  # -0.0 is not 0.0


def _common(a: Any, b: Any) -> Any:
    """The type of a value that is of type `a` or of type `b`; None where Python would have two."""
    if a.shape != b.shape:
        return None
    if a.dtype == b.dtype:
        return a if not a.weak_type else b
    if jnp.issubdtype(a.dtype, jax.dtypes.extended) or jnp.issubdtype(b.dtype, jax.dtypes.extended):
        return None
    if not a.weak_type and not b.weak_type:
        return None
    dtype = jnp.result_type(a, b)
    for strong in (a, b):
        if not strong.weak_type:
            return strong if dtype == strong.dtype else None
    return a if dtype == a.dtype else b


def _one_sided(there: int) -> str:
    return (
        f"it is assigned only in the {_WORDS[there]} branch of the traced if at line {here().line}; "
        "give it a value before the if"
    )


def _absent(name: str, reason: str) -> Node:
    return Absent(Undefined(name, reason))


def _disagreement(name: str, exits: list[Exit]) -> str:
    a, b = exits
    shown = "the returned value" if name == RESULT else f"'{name}'"
    after = "the if branch", "the else branch"
    if same_structure(a.node, b.node):
        for path, left, right in zip(paths(a.node, name), a.types, b.types, strict=True):
            path = shown if name == RESULT else f"'{path}'"
            if left.shape != right.shape:
                return (
                    f"{path} has shape {left.shape} after {after[0]} and {right.shape} after "
                    f"{after[1]} of the traced if at line {here().line}"
                )
            if left.dtype != right.dtype:
                return (
                    f"{path} is {left.dtype} after {after[0]} and {right.dtype} after {after[1]} of "
                    f"the traced if at line {here().line}: give both one dtype"
                )
    path, *nodes = difference(name, a.node, b.node)
    whole = nodes[0] is a.node
    if not whole:
        shown = f"'{path}'"
    left, right = (
        describe(node, exit.types if whole else ()) for node, exit in zip(nodes, exits, strict=True)
    )
    if isinstance(a.node, Constant) and isinstance(b.node, Constant):
        return (
            f"{shown} is {left} after {after[0]} and {right} after {after[1]} of the traced if at line "
            f"{here().line}; only arrays and numbers can depend on a traced condition"
        )
    return (
        f"{shown} has a different structure in the two branches of the traced if at line "
        f"{here().line}: {left} after {after[0]}, {right} after {after[1]}"
    )


def _two_of_them(name: str) -> str:
    return (
        f"'{name}' is one list or dict after the if branch and another after the else branch of the "
        f"traced if at line {here().line}: choose an index, or the values, by the condition"
    )


def _two_objects(a: Node, b: Node) -> bool:
    """Whether which of two existing lists or dicts a variable holds depends on data."""
    if not isinstance(a, Container) or not isinstance(b, Container):
        return False
    if a.origin is not None and b.origin is not None and a.origin is not b.origin:
        return True
    return any(map(_two_objects, a.children, b.children))


def _with_common_origin(a: Node, b: Node) -> Node:
    """Where the branches hold two different lists, the variable is a new one."""
    if not isinstance(a, Container) or not isinstance(b, Container):
        return a
    children = tuple(map(_with_common_origin, a.children, b.children))
    return a._replace(children=children, origin=a.origin if a.origin is b.origin else None)
