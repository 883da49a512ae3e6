"""What a staged loop carries from one iteration to the next, and the variables after it.

In `for x in xs: s = s + w * x; y = s` the variable `s` is carried, `w` stays the same and is a
constant of the loop, and `y` is carried only because its last value is needed after the loop.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from toolkit.jaxprs.read import opened
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.plain_python import mode
from toolkit.plain_python.carried.encoding import Decoder, EncodedVariable
from toolkit.plain_python.carried.structure import Absent, GrowingList
from toolkit.plain_python.carried.typed_arrays import (
    is_python_number,
    is_same_number,
    with_type,
    zeros,
)
from toolkit.plain_python.carried.undefined import Undefined
from toolkit.plain_python.carried.variables import Variables
from toolkit.plain_python.refusals import refuse
from toolkit.plain_python.tracing import integers
from toolkit.plain_python.tracing.blocks import ExitValue, TracedBlock
from toolkit.plain_python.tracing.intervals import Known, NotAsInPython
from toolkit.plain_python.tracing.known_intervals import known_of, note
from toolkit.plain_python.tracing.reading import is_input
from toolkit.plain_python.tracing.settling import SettledBlock, first_assigned


class CarriedArray(NamedTuple):
    """One array that a loop carries."""

    position: int | None  # its place among the block's inputs; None if the block assigns it first
    output: int  # the result of the block that is its next value
    init: Any  # its value before the loop, or zeros if there is none


def inputs_of(settled: SettledBlock) -> list[Any]:
    """The variables before the loop, as arrays of the types that were traced."""
    return [
        with_type(leaf, aval, weak=False)
        for one, types in zip(settled.entry, settled.traced.entry_types, strict=True)
        for leaf, aval in zip(one.leaves, types, strict=True)
    ]


def carried_by(settled: SettledBlock, inputs: list[Any]) -> list[CarriedArray]:
    """The arrays that change from one iteration to the next."""
    carried, position = [], 0
    for one, exit in zip(settled.entry, settled.traced.exits, strict=True):
        # A variable that the block assigns first needs no value before the loop. But its last value may
        # be read after it, and a scan returns only what it carries, so it is carried from zeros. A
        # Python number here is the same after each iteration, so it is known without being carried.
        if isinstance(one.node, Absent):
            carried += [
                CarriedArray(None, output, zeros(aval))
                for output, aval, leaf in zip(exit.outputs, exit.types, exit.leaves, strict=True)
                if not is_python_number(leaf)
            ]
            continue
        for k, _ in enumerate(one.leaves):
            # What stays the same is a constant of the loop, for which no policy has to store anything.
            if not _stays(settled.traced, one, exit, k, position):
                carried.append(CarriedArray(position, exit.outputs[k], inputs[position]))
            position += 1
    return carried


def _stays(
    traced: TracedBlock, one: EncodedVariable, exit: ExitValue, k: int, position: int
) -> bool:
    """Whether one iteration leaves the k-th leaf of a variable unchanged."""
    if is_input(traced, exit.outputs[k], position):
        return True
    return is_same_number(one.leaves[k], exit.leaves[k])


def check_integers(
    settled: SettledBlock,
    carried: list[CarriedArray],
    items: integers.Items,
    length: int | None,
    most: int,
    condition: Any = None,
) -> dict[int, Known]:
    """Refuse a loop in which an integer of Python's would overflow (see `tracing.integers`).

    Returns: by the number of a result of the block, where its value after the loop lies.

    Args:
      items: the intervals of an iteration's item.
      length: the number of iterations; None if it depends on data.
      most: a bound of it.
      condition: the jaxpr, of the variables, that such a loop ends on; None if there is none.
    """
    # The loop around this one is followed together with it, and then more is known of its integers.
    if mode.is_in_loop():
        return {}
    entry = [known_of(leaf) for one in settled.entry for leaf in one.leaves]
    outputs: list[int | None] = [None] * len(entry)
    for one in carried:
        if one.position is not None:
            outputs[one.position] = one.output
    jaxpr, constants = opened(settled.traced.jaxpr)
    loop = integers.Iteration(
        jaxpr, (), items, outputs, condition, constants=list(map(known_of, constants))
    )
    try:
        after = integers.follow(loop, entry, length, most)
    except NotAsInPython as error:
        raise refuse(f"{error}.") from None
    # What the block assigns first has its value of the last iteration; the others perhaps that from before.
    known = dict(enumerate(after.results))
    return known | {o: one for o, one in zip(outputs, after.carry, strict=True) if o is not None}


def position_of(settled: SettledBlock, variable: int) -> int:
    """The place of a variable's first leaf among the block's inputs."""
    return sum(len(one.leaves) for one in settled.entry[:variable])


def filled(inputs: list[Any], carried: list[CarriedArray], carry: list[Any]) -> list[Any]:
    """The block's inputs, with the carried ones replaced by their present values."""
    now = list(inputs)
    for one, value in zip(carried, carry, strict=True):
        if one.position is not None:
            now[one.position] = value
    return now


def strong(traced: TracedBlock, carried: list[CarriedArray], results: list[Any]) -> list[Any]:
    """The next values of what a loop carries, strongly typed.

    A scan wants the same type in and out, and an iteration may make a weakly typed value a strongly
    typed one. `variables_after` makes them weakly typed again.
    """
    avals = traced.jaxpr.out_avals
    return [
        vary(
            with_type(results[one.output], avals[one.output], weak=False),
            varying_axes(one.init),
        )
        for one in carried
    ]


def variables_after(
    variables: Variables,
    settled: SettledBlock,
    finals: dict[int, Any],
    known: dict[int, Known],
    may_not_run: bool,
) -> list[Any]:
    """The values of the variables after a loop.

    Args:
      finals: by the number of a result of the block, its value after the last iteration.
      known: and where it lies.
      may_not_run: whether the loop may have had no iteration.
    """
    decoder = Decoder(fresh=False, mutated=settled.mutated)
    values = variables.values()
    for k in variables._replace(mutated=settled.mutated).order():
        name, one, exit = variables.names[k], settled.entry[k], settled.traced.exits[k]
        if isinstance(exit.node, GrowingList) or name in settled.watched:
            continue
        # After zero iterations a variable without a value before the loop still has none.
        if may_not_run and isinstance(one.node, Absent):
            values[k] = _maybe_never(name, one.node.undefined, exit)
        else:
            unchanged = exit.leaves if isinstance(one.node, Absent) else one.leaves
            leaves = [
                note(with_type(finals[output], aval), known.get(output))
                if output in finals
                else leaf
                for output, aval, leaf in zip(exit.outputs, exit.types, unchanged, strict=True)
            ]
            values[k] = decoder.decode(name, exit.node, leaves)
    return values


def _maybe_never(name: str, before: Undefined, exit: ExitValue) -> Undefined:
    """The mark of a variable that has a value after the loop only if there was an iteration."""
    if before.reason:
        return before
    if isinstance(exit.node, Absent):
        return exit.node.undefined  # an iteration may leave it with a reason of its own
    return Undefined(name, first_assigned())
