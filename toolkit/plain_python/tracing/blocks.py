"""One trace of a block: its computation as a jaxpr, and what became of its variables.

The variables get tracers, the block runs once, and what the variables hold then is the result. For
the block `s = s + x[i]` with the variables `i` and `s` this is a jaxpr `(i, s, item) -> (i, s)`.
Afterwards the variables hold again what they held before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

from toolkit.errors.readable import cause
from toolkit.jaxprs.classes import ClosedJaxpr
from toolkit.plain_python import mode
from toolkit.plain_python.carried.encoding import Decoder, EncodedVariable, Encoder, encode_growing
from toolkit.plain_python.carried.lists import ItemRun, ListRecorder, StackedList
from toolkit.plain_python.carried.structure import ConstantLeaf, GrowingList, Node, same_structure
from toolkit.plain_python.carried.surroundings import Remembered, Surroundings
from toolkit.plain_python.carried.typed_arrays import fitting, is_python_number
from toolkit.plain_python.carried.undefined import UndefinedRead
from toolkit.plain_python.carried.variables import Variables
from toolkit.plain_python.refusals import ControlFlowError, UserLine, note_that_it_left, refuse
from toolkit.plain_python.reserved import PREFIX, RESULT
from toolkit.plain_python.tracing.intervals import Known
from toolkit.plain_python.tracing.known_intervals import known_of, table
from toolkit.plain_python.tracing.needs_python import explained, needs_python


class ExitValue(NamedTuple):
    """One variable at the end of a block."""

    node: Node
    leaves: list[Any]  # a Python number, an array from before the block, or None for a computed one
    types: list[Any]  # their abstract values: shape, dtype, whether weakly typed
    outputs: list[int]  # for each leaf its position among the results of the jaxpr
    spans: list[Known]  # for each leaf where it lies, if it is an integer of Python's


class Appended(NamedTuple):
    """What one run of a block appended to a list."""

    variable: int  # its position among the variables
    counts: list[int | None]  # for each chunk its number of items; None for a single item
    structures: list[Any]  # for each chunk its tree definition
    place: UserLine  # the line of the last append
    outputs: list[list[int]]  # for each chunk the positions of its leaves among the jaxpr's results


class TracedBlock(NamedTuple):
    """A block as a computation."""

    jaxpr: ClosedJaxpr
    exits: list[ExitValue]  # one a variable
    appended: list[Appended]
    entry_types: list[list[Any]]  # for each variable the abstract values of its leaves at the start


def encode_entry(variables: Variables, values: Sequence[Any], loop: bool) -> list[EncodedVariable]:
    """The variables before a block. In a loop, a list that the block appends to becomes a recorder."""
    encoder = Encoder(None)
    entry: dict[int, EncodedVariable] = {}
    for k in variables.order():
        value, name = values[k], variables.names[k]
        grown = loop and name in variables.grown and isinstance(value, (list, StackedList))
        if grown or isinstance(value, ListRecorder):
            entry[k] = encode_growing(value)
        elif name in variables.watched:
            entry[k] = encoder.encode_watched(value)
        else:
            entry[k] = encoder.encode(value, name in variables.mutated)
    return [entry[k] for k in range(len(values))]


def trace(
    variables: Variables,
    entry: Sequence[EncodedVariable],
    run: Callable[[Any], None],
    example: Any = None,
    as_inputs: bool = True,
    conditional: bool = False,
) -> TracedBlock:
    """Run a block once on tracers.

    Args:
      entry: the variables at its start. With `as_inputs` their leaves become the first inputs of the
        jaxpr, so that Python numbers are tracers too; else the block sees the leaves themselves.
      run: the block; its argument is an item like `example`, the last inputs of the jaxpr.
      conditional: whether the compiled program may skip the block.
    """
    found: dict[str, Any] = {}

    def body(leaves: list[Any], item: Any) -> list[Any]:
        seen = leaves if as_inputs else [leaf for one in entry for leaf in one.leaves]
        with table(nested=True):
            with entered(variables, entry, seen, conditional, loop=as_inputs) as (values, decoder):
                run(item)
                after = variables.values()
            exits, appended, results = _encode_exit(variables, entry, values, after, decoder)
        found.update(exits=exits, appended=appended)
        return results

    inputs = (
        [
            _as_input(name, leaf)
            for name, one in zip(variables.names, entry, strict=True)
            for leaf in one.leaves
        ]
        if as_inputs
        else []
    )
    try:
        jaxpr = jax.make_jaxpr(body)(inputs, example)
    except Exception as error:
        if needs_python(error):
            raise explained(error) from cause(error)
        if isinstance(error, OverflowError):
            raise refuse(
                f"a Python integer is too large for JAX's {jax.dtypes.canonicalize_dtype(int)} in this "
                "staged block: use a float, or enable jax_enable_x64."
            ) from cause(error)
        raise
    exits = [
        ExitValue(node, known, _exit_types(name, known, jaxpr, outputs), outputs, spans)
        for name, (node, known, outputs, spans) in zip(variables.names, found["exits"], strict=True)
    ]
    types = iter(jaxpr.in_avals)
    entry_types = [[next(types) for _ in one.leaves] for one in entry] if as_inputs else []
    return TracedBlock(jaxpr, exits, found["appended"], entry_types)


# A bool of Python's is an integer in sums. In a block its weak type says so: JAX's own are never weak.
# The flags that say that a loop was left are only tested.
_BOOL = jax.ShapeDtypeStruct((), bool, weak_type=True)


def _is_flag(name: str) -> bool:
    return name.startswith(PREFIX) and name != RESULT


def _as_input(name: str, leaf: Any) -> Any:
    return _BOOL if isinstance(leaf, bool) and not _is_flag(name) else fitting(leaf)


def _exit_types(name: str, known: list[Any], jaxpr: ClosedJaxpr, outputs: list[int]) -> list[Any]:
    types = [jaxpr.out_avals[k] for k in outputs]
    if _is_flag(name):
        return types
    return [
        aval.update(weak_type=True) if isinstance(leaf, bool) else aval
        for leaf, aval in zip(known, types, strict=True)
    ]


@contextmanager
def entered(
    variables: Variables,
    entry: Sequence[EncodedVariable],
    leaves: Sequence[Any],
    conditional: bool,
    loop: bool,
) -> Iterator[tuple[list[Any], Decoder]]:
    """Inside, the variables hold the values of `entry` with these leaves; afterwards what they held."""
    before = variables.values()
    decoder = Decoder(fresh=True, mutated=variables.mutated)
    pending = iter(leaves)
    own = [[next(pending) for _ in one.leaves] for one in entry]
    values: list[Any] = [None] * len(entry)
    try:
        seeing = observed(variables.around, conditional, loop, variables.reads)
        with seeing as seen:
            # The block may reach a list of the user's not by its variable but through another name or
            # object. It then holds the original, which therefore counts as its own origin.
            plain = {id(one.holder.owner): one.holder.owner for one in seen if one.is_plain()}
            decoder.origins.update(plain)
            for k in variables.order():
                values[k] = decoder.decode(variables.names[k], entry[k].node, own[k])
            variables.write(*values)
            yield values, decoder
    finally:
        variables.write(*before)


@contextmanager
def observed(
    around: Surroundings, conditional: bool, loop: bool, written: Collection[Any] = ()
) -> Iterator[list[Remembered]]:
    """Inside, code is traced that a compiled program runs later: what it changes is undone and refused.

    Args:
      written: functions whose variables the block itself may assign.
    """
    seen = around.remember(written)
    try:
        with mode.staging(conditional, loop):
            yield seen
    except Exception as error:
        stuck = [one for one in seen if one.undo() and one.holder.put_back is None]
        # A block that reads a variable without a value is traced again in another way, and would find
        # an iterator where this trace has left it.
        if isinstance(error, UndefinedRead) and stuck:
            raise stuck[0].refused() from cause(error)
        if not isinstance(error, (UndefinedRead, ControlFlowError)) and not needs_python(error):
            note_that_it_left(error)
        raise
    if changed := [one for one in seen if one.undo()]:
        raise changed[0].refused()


def _encode_exit(
    variables: Variables,
    entry: Sequence[EncodedVariable],
    values: Sequence[Any],
    after: Sequence[Any],
    decoder: Decoder,
) -> tuple[list[Any], list[Appended], list[Any]]:
    """The variables after a block ran: their structure, what it appended, and its results."""
    encoder = Encoder(decoder.origins, [one.node for one in entry], variables.cells())
    exits: list[Any] = [None] * len(after)
    appended: list[Appended] = []
    results: list[Any] = []
    # A tracer is invalid after its trace. So of each leaf only what existed before is kept: a number, or
    # an array that was there at the start. All else is a result of the jaxpr.
    outside = {id(leaf) for one in entry for leaf in one.leaves}
    for k in variables.order():
        value, name = after[k], variables.names[k]
        recorded = isinstance(entry[k].node, GrowingList) and value is values[k]
        if recorded:
            node, leaves = _last(entry[k].node, value)
        elif name in variables.watched:
            # A watched variable adds no results. If it did not stay the same, another node says so (see
            # `reading.changed_by_calls`), and the block is traced again with the variable as a changed one.
            stays = same_structure(encoder.encode_watched(value).node, entry[k].node)
            node, leaves = entry[k].node if stays else ConstantLeaf(None), []
        else:
            node, leaves = encoder.encode(value, name in variables.mutated)
        known = [leaf if is_python_number(leaf) or id(leaf) in outside else None for leaf in leaves]
        # What the block leaves as it was is no result that anything reads, and may be of any size.
        placed = [leaf if id(leaf) in outside else fitting(leaf) for leaf in leaves]
        exits[k] = (node, known, _placed(placed, results), list(map(known_of, leaves)))
        if recorded and value.chunks:
            appended.append(_encode_appended(k, value, results))
    return exits, appended, results


def _last(entry: Node, recorder: ListRecorder) -> EncodedVariable:
    """A recorded list at the end of a block: its last item, if the loop carries that."""
    if isinstance(entry, GrowingList) and entry.last is None:
        return EncodedVariable(entry, [])
    return encode_growing(recorder)


def _encode_appended(variable: int, recorder: ListRecorder, results: list[Any]) -> Appended:
    counts, structures, outputs = [], [], []
    for chunk in recorder.chunks:
        counts.append(chunk.length if isinstance(chunk, ItemRun) else None)
        leaves, structure = jax.tree.flatten(
            chunk.items if isinstance(chunk, ItemRun) else chunk.item
        )
        structures.append(structure)
        outputs.append(_placed(list(map(fitting, leaves)), results))
    assert recorder.place is not None
    return Appended(variable, counts, structures, recorder.place, outputs)


def _placed(leaves: list[Any], results: list[Any]) -> list[int]:
    """Append the leaves to the results; their positions there."""
    results.extend(leaves)
    return list(range(len(results) - len(leaves), len(results)))
