"""Conditions on traced values: both branches are traced, and become the branches of a `cond`.

    if x > 0:                           y = jax.lax.cond(x > 0, lambda: 2 * x, lambda: y)
        y = 2 * x

Each variable that the branches leave with different values is a result of the `cond`. `merging`
finds the type that it has after it, or the reason why it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from toolkit.jaxprs.read import evaluate
from toolkit.plain_python import mode
from toolkit.plain_python.carried.encoding import Decoder, EncodedVariable
from toolkit.plain_python.carried.lists import ItemRun, SingleItem
from toolkit.plain_python.carried.structure import GrowingList, Node
from toolkit.plain_python.carried.typed_arrays import type_text, with_type, zeros
from toolkit.plain_python.carried.variables import Variables
from toolkit.plain_python.refusals import refuse
from toolkit.plain_python.reserved import RETURNED
from toolkit.plain_python.staging.merging import MergedLeaf, common_type, merge
from toolkit.plain_python.tracing.blocks import Appended, TracedBlock, encode_entry, trace
from toolkit.plain_python.tracing.known_intervals import note
from toolkit.plain_python.tracing.reading import changed_by_calls


def branch(
    variables: Variables,
    condition: Any,
    then: Callable[[], None],
    orelse: Callable[[], None],
    guard: str | None = None,
) -> None:
    """Run `if condition: then() else: orelse()` for a traced scalar.

    Args:
      guard: given if the condition is that this flag, which says that a loop was left, is False. A
        variable that only `then` assigns may be anything otherwise, since the loop keeps its old value.
    """
    before = variables.values()
    entry = encode_entry(variables, before, loop=False)
    sides = [
        _side(variables, entry, then, condition, True),
        _side(variables, entry, orelse, condition, False),
    ]
    # A call in a branch has changed a watched list or dict: trace again, with it as a changed variable.
    changed = {name for side in sides for name in changed_by_calls(variables, entry, side)}
    if changed:
        return branch(variables.changing(sorted(changed)), condition, then, orelse, guard)
    gone = _certainly_returned(variables, sides)
    nodes: list[Node] = []
    leaves: list[list[MergedLeaf]] = []
    for k, name in enumerate(variables.names):
        changing = name in variables.mutated
        node, merged = merge(name, [side.exits[k] for side in sides], guard, changing, gone)
        nodes.append(node)
        leaves.append(merged)
    appended = _merge_appended(variables, sides)
    # One `cond` for all variables, so that each branch is compiled once.
    wanted = [one for merged in (*leaves, *appended) for one in merged if one.aval is not None]
    results = iter(_conditional(condition, sides, wanted))

    final = [
        [
            one.value if one.aval is None else note(with_type(next(results), one.aval), one.known)
            for one in merged
        ]
        for merged in leaves
    ]
    decoder = Decoder(fresh=False, mutated=variables.mutated)
    values: list[Any] = [None] * len(nodes)
    for k in variables.order():
        values[k] = decoder.decode(variables.names[k], nodes[k], final[k])
    # A watched variable has stayed the same object. So has the recorder of a list that a loop around this
    # condition grows: what the branches append to it is added below, from the outputs of the `cond`.
    for k, node in enumerate(nodes):
        if isinstance(node, GrowingList) or variables.names[k] in variables.watched:
            values[k] = before[k]
    for one, merged in zip(sides[0].appended, appended, strict=True):
        before[one.variable].add(_chunks(one, [next(results) for _ in merged]))
    variables.write(*values)


def _certainly_returned(variables: Variables, sides: Sequence[TracedBlock]) -> set[int]:
    """The branches that end in an early `return` for any data. Nothing reads a variable after that."""
    if RETURNED not in variables.names:
        return set()
    k = variables.names.index(RETURNED)
    return {
        n for n, side in enumerate(sides) if [x is True for x in side.exits[k].leaves] == [True]
    }


def _side(
    variables: Variables,
    entry: list[EncodedVariable],
    run: Callable[[], None],
    condition: Any,
    when: bool,
) -> TracedBlock:
    def block(_: Any) -> None:
        with mode.taken(condition, when):
            run()

    # A branch sees the values themselves, not tracers for them: a Python number that it does not touch
    # stays one, and may still be an index or a key.
    return trace(variables, entry, block, as_inputs=False, conditional=True)


def _conditional(
    condition: Any, sides: Sequence[TracedBlock], wanted: list[MergedLeaf]
) -> list[Any]:
    def run(side: int) -> Callable[[], list[Any]]:
        def compute() -> list[Any]:
            found = evaluate(sides[side].jaxpr)
            return [
                zeros(one.aval)  # nothing reads it after this branch
                if one.outputs[side] is None
                else with_type(found[one.outputs[side]], one.aval, weak=False)  # type: ignore[index]
                for one in wanted
            ]

        return compute

    # A branch that prints (`jax.debug.print`) has to run although it has no results.
    acts = any(side.jaxpr.effects for side in sides)
    return jax.lax.cond(condition, run(0), run(1)) if wanted or acts else []


def _chunks(one: Appended, results: list[Any]) -> list[ItemRun | SingleItem]:
    pending = iter(results)
    made: list[ItemRun | SingleItem] = []
    for count, structure in zip(one.counts, one.structures, strict=True):
        tree = jax.tree.unflatten(structure, [next(pending) for _ in range(structure.num_leaves)])
        made.append(SingleItem(tree) if count is None else ItemRun(count, tree))
    return made


def _merge_appended(variables: Variables, sides: Sequence[TracedBlock]) -> list[list[MergedLeaf]]:
    """What both branches append to the same lists. If only one appends, a length depends on data."""
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
            common = common_type(a, b)
            if common is None:
                raise refuse(
                    f"`{name}.append` adds {type_text(a)} in the if branch and {type_text(b)} in the "
                    "else branch: append values of one shape and dtype."
                )
            both.append(MergedLeaf(None, common, (outs[0], outs[1])))
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
