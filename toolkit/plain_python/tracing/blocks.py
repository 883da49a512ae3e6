"""One trace of a block: its computation, and what became of its variables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

from toolkit.errors.readable import cause
from toolkit.jaxprs.classes import ClosedJaxpr
from toolkit.plain_python import mode
from toolkit.plain_python.carried.arrays import is_python_number
from toolkit.plain_python.carried.encoding import Decoder, EncodedVariable, Encoder, encode_growing
from toolkit.plain_python.carried.lists import ItemRun, ListRecorder, StackedList
from toolkit.plain_python.carried.structure import ConstantLeaf, GrowingList, Node, same_structure
from toolkit.plain_python.carried.variables import Variables
from toolkit.plain_python.errors import UserLine, refuse
from toolkit.plain_python.tracing.needs_python import explained, needs_python


class ExitValue(NamedTuple):
    """One variable at the end of a block."""

    node: Node
    leaves: list[Any]  # what is known outside the trace: numbers, arrays; None for what it computes
    types: list[Any]  # avals
    outputs: list[int]  # which results of the jaxpr


class Appended(NamedTuple):
    """What one run of a block appended to a list."""

    variable: int
    counts: list[int | None]  # of each chunk; None for a single item
    structures: list[Any]  # tree definition of each chunk
    place: UserLine  # of the last append
    outputs: list[list[int]]  # which results of the jaxpr, a chunk


class TracedBlock(NamedTuple):
    """A block as a computation."""

    jaxpr: ClosedJaxpr
    exits: list[ExitValue]
    appended: list[Appended]
    entry_types: list[list[Any]]  # avals, a variable


def encode_entry(variables: Variables, values: Sequence[Any], loop: bool) -> list[EncodedVariable]:
    """The variables before a block; before a loop, lists that it appends to are recorded."""
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
      entry: the variables at its start. With `as_inputs` their leaves are the jaxpr's first inputs
        (Python numbers become weakly typed arrays); else they are seen as they are.
      run: the block, given an item like `example`, whose leaves are the jaxpr's last inputs.
      conditional: whether it may not run at all.
    """
    found: dict[str, Any] = {}

    def body(leaves: list[Any], item: Any) -> list[Any]:
        seen = leaves if as_inputs else [leaf for one in entry for leaf in one.leaves]
        with entered(variables, entry, seen, conditional) as (values, decoder):
            run(item)
            after = variables.values()
        exits, appended, results = _encode_exit(variables, entry, values, after, decoder)
        found.update(exits=exits, appended=appended)
        return results

    inputs = [leaf for one in entry for leaf in one.leaves] if as_inputs else []
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
        ExitValue(node, known, [jaxpr.out_avals[k] for k in outputs], outputs)
        for node, known, outputs in found["exits"]
    ]
    types = iter(jaxpr.in_avals)
    entry_types = [[next(types) for _ in one.leaves] for one in entry] if as_inputs else []
    return TracedBlock(jaxpr, exits, found["appended"], entry_types)


@contextmanager
def entered(
    variables: Variables, entry: Sequence[EncodedVariable], leaves: Sequence[Any], conditional: bool
) -> Iterator[tuple[list[Any], Decoder]]:
    """The variables as at a block's start, with these leaves; afterwards as they were."""
    before = variables.values()
    seen = variables.around.remember()
    decoder = Decoder(fresh=True, mutated=variables.mutated)
    pending = iter(leaves)
    # What exists outside is itself, also where the block reaches it by another way.
    decoder.origins.update({id(one.container): one.container for one in seen if one.is_plain()})
    own = [[next(pending) for _ in one.leaves] for one in entry]
    values: list[Any] = [None] * len(entry)
    for k in variables.order():
        values[k] = decoder.decode(variables.names[k], entry[k].node, own[k])
    variables.write(*values)
    try:
        with mode.staging(conditional):
            yield values, decoder
        for one in seen:
            one.check()
    finally:
        variables.write(*before)


def _encode_exit(
    variables: Variables,
    entry: Sequence[EncodedVariable],
    values: Sequence[Any],
    after: Sequence[Any],
    decoder: Decoder,
) -> tuple[list[Any], list[Appended], list[Any]]:
    encoder = Encoder(decoder.origins, [one.node for one in entry])
    exits: list[Any] = [None] * len(after)
    appended: list[Appended] = []
    results: list[Any] = []
    # No tracer of this trace may outlive it.
    outside = {id(leaf) for one in entry for leaf in one.leaves}
    for k in variables.order():
        value, name = after[k], variables.names[k]
        recorded = isinstance(entry[k].node, GrowingList) and value is values[k]
        if recorded:
            node, leaves = _last(entry[k].node, value)
        elif name in variables.watched:
            stays = same_structure(encoder.encode_watched(value).node, entry[k].node)
            node, leaves = entry[k].node if stays else ConstantLeaf(None), []
        else:
            node, leaves = encoder.encode(value, name in variables.mutated)
        known = [leaf if is_python_number(leaf) or id(leaf) in outside else None for leaf in leaves]
        exits[k] = (node, known, _placed(leaves, results))
        if recorded and value.chunks:
            appended.append(_encode_appended(k, value, results))
    return exits, appended, results


def _last(entry: Node, recorder: ListRecorder) -> EncodedVariable:
    """A recorded list at the end of a block: its last item, where that is carried."""
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
        outputs.append(_placed(leaves, results))
    assert recorder.place is not None
    return Appended(variable, counts, structures, recorder.place, outputs)


def _placed(leaves: list[Any], results: list[Any]) -> list[int]:
    results.extend(leaves)
    return list(range(len(results) - len(leaves), len(results)))
