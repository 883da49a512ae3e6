"""One trace of a block: its computation, and what became of its variables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from toolkit import tree
from toolkit.errors.readable import cause
from toolkit.jaxprs.classes import ClosedJaxpr
from toolkit.jaxprs.hidden import converted, varying_axes
from toolkit.jaxprs.read import inner, opened
from toolkit.plain_python import mode
from toolkit.plain_python.errors import ControlFlowError, Place, here, place_of, refuse
from toolkit.plain_python.jumps import RESULT
from toolkit.plain_python.lists import Recorder, Run, Stacked
from toolkit.plain_python.state import (
    Constant,
    Decoder,
    Encoded,
    Encoder,
    Growing,
    Node,
    Undefined,
    Variables,
    encode_growing,
    is_python_number,
    same_structure,
)

_NEEDS_PYTHON = (
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerArrayConversionError,
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
)
# What JAX says of the same in general errors.
_WORDS = (
    "unhashable type: 'DynamicJaxprTracer'",
    "must have static",
    "Shapes must be 1D sequences",
)


def needs_python(error: BaseException | None) -> bool:
    """Whether a traced value was used where Python needs to know it."""
    return isinstance(error, _NEEDS_PYTHON) or (
        isinstance(error, (TypeError, IndexError))
        and not isinstance(error, ControlFlowError)
        and any(word in str(error) for word in _WORDS)
    )


def explained(error: Exception) -> ControlFlowError:
    """The refusal for an error of `needs_python`, at the user's line."""
    place, expression = place_of(error)
    said = _SAID[isinstance(error, jax.errors.TracerBoolConversionError)]
    return place.refuse(f"`{expression}`: {said}" if expression else said)


_SAID = {
    True: (
        "a traced value is a condition where Python has to know it: in a comprehension, `assert`, "
        "`sorted` or the like use jnp.where, jnp.any, jnp.max; a function that is called and not "
        "converted needs @tk.control_flow too."
    ),
    False: (
        "a value that is traced here (a loop variable, or what depends on one) is used where Python "
        "needs a number: an index of a list, a key of a dict, a slice, a shape, int() or float(). Go "
        "over the list itself, `for i, x in enumerate(xs)`, or over `tk.control.unroll(range(n))`: "
        "both run as Python. Numbers, or arrays of one shape, can be an array, `jnp.asarray(xs)[i]` "
        "(a slice of it: jax.lax.dynamic_slice_in_dim)."
    ),
}


class UndefinedRead(UnboundLocalError):
    """A variable without a value was read; `undefined` is what stood in its place."""

    def __init__(self, message: str, undefined: Undefined) -> None:
        super().__init__(message)
        self.undefined = undefined

    @classmethod
    def of(cls, undefined: Undefined, name: str) -> UndefinedRead:
        """The error of reading it where the user's code stands now."""
        reason = undefined.reason
        if reason is None:
            said = f"cannot access local variable '{name}' where it is not associated with a value"
        else:
            shown = "the returned value" if name == RESULT else f"variable '{name}'"
            why = (
                "may be used before assignment" if "assigned" in reason else "has no one value here"
            )
            said = f"{shown} {why}: {reason}."
        return cls(here().said(said), undefined)


class Exit(NamedTuple):
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
    place: Place  # of the last append
    outputs: list[list[int]]  # which results of the jaxpr, a chunk


class Traced(NamedTuple):
    """A block as a computation."""

    jaxpr: ClosedJaxpr
    exits: list[Exit]
    appended: list[Appended]
    entry_types: list[list[Any]]  # avals, a variable


def encode_entry(variables: Variables, values: Sequence[Any], loop: bool) -> list[Encoded]:
    """The variables before a block; before a loop, lists that it appends to are recorded."""
    encoder = Encoder(None)
    entry: dict[int, Encoded] = {}
    for k in variables.order():
        value, name = values[k], variables.names[k]
        grown = loop and name in variables.grown and isinstance(value, (list, Stacked))
        if grown or isinstance(value, Recorder):
            entry[k] = encode_growing(value)
        elif name in variables.watched:
            entry[k] = encoder.encode_watched(value)
        else:
            entry[k] = encoder.encode(value, name in variables.mutated)
    return [entry[k] for k in range(len(values))]


def trace(
    variables: Variables,
    entry: Sequence[Encoded],
    run: Callable[[Any], None],
    example: Any = None,
    as_inputs: bool = True,
    conditional: bool = False,
) -> Traced:
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
        Exit(node, known, [jaxpr.out_avals[k] for k in outputs], outputs)
        for node, known, outputs in found["exits"]
    ]
    types = iter(jaxpr.in_avals)
    entry_types = [[next(types) for _ in one.leaves] for one in entry] if as_inputs else []
    return Traced(jaxpr, exits, found["appended"], entry_types)


@contextmanager
def entered(
    variables: Variables, entry: Sequence[Encoded], leaves: Sequence[Any], conditional: bool
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
    entry: Sequence[Encoded],
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
        recorded = isinstance(entry[k].node, Growing) and value is values[k]
        if recorded:
            node, leaves = _last(entry[k].node, value)
        elif name in variables.watched:
            stays = same_structure(encoder.encode_watched(value).node, entry[k].node)
            node, leaves = entry[k].node if stays else Constant(None), []
        else:
            node, leaves = encoder.encode(value, name in variables.mutated)
        known = [leaf if is_python_number(leaf) or id(leaf) in outside else None for leaf in leaves]
        exits[k] = (node, known, _placed(leaves, results))
        if recorded and value.chunks:
            appended.append(_encode_appended(k, value, results))
    return exits, appended, results


def _last(entry: Node, recorder: Recorder) -> Encoded:
    """A recorded list at the end of a block: its last item, where that is carried."""
    if isinstance(entry, Growing) and entry.last is None:
        return Encoded(entry, [])
    return encode_growing(recorder)


def _encode_appended(variable: int, recorder: Recorder, results: list[Any]) -> Appended:
    counts, structures, outputs = [], [], []
    for chunk in recorder.chunks:
        counts.append(chunk.length if isinstance(chunk, Run) else None)
        leaves, structure = jax.tree.flatten(chunk.items if isinstance(chunk, Run) else chunk.item)
        structures.append(structure)
        outputs.append(_placed(leaves, results))
    assert recorder.place is not None
    return Appended(variable, counts, structures, recorder.place, outputs)


def _placed(leaves: list[Any], results: list[Any]) -> list[int]:
    results.extend(leaves)
    return list(range(len(results) - len(leaves), len(results)))


def changed_by_calls(
    variables: Variables, entry: Sequence[Encoded], traced: Traced
) -> tuple[str, ...]:
    """The watched variables that something the block calls has changed in place."""
    return tuple(
        name
        for name, one, exit in zip(variables.names, entry, traced.exits, strict=True)
        if name in variables.watched and exit.node is not one.node
    )


def is_input(traced: Traced, output: int, position: int) -> bool:
    """Whether a result is the input at `position`, untouched."""
    return traced.jaxpr.jaxpr.outvars[output] is traced.jaxpr.jaxpr.invars[position]


def uses_input(traced: Traced, position: int) -> bool:
    """Whether anything is computed from the input at `position`."""
    variable = traced.jaxpr.jaxpr.invars[position]
    return any(variable is atom for eqn in traced.jaxpr.jaxpr.eqns for atom in eqn.invars)


def has_other_width(traced: Traced, dtype: Any) -> bool:
    """Whether the block holds numbers of this kind in another width.

    Only then does it matter whether a number is weakly typed: `1.0 * bfloat16` is a bfloat16,
    `float32(1.0) * bfloat16` is not.
    """
    kind = jnp.inexact if jnp.issubdtype(dtype, jnp.inexact) else jnp.integer
    return any(jnp.issubdtype(d, kind) and d != dtype for d in _dtypes(traced.jaxpr.jaxpr))


def _dtypes(computation: Any) -> set[Any]:
    jaxpr, _ = opened(computation)
    found = {getattr(v.aval, "dtype", None) for v in (*jaxpr.invars, *jaxpr.constvars)}
    for equation in jaxpr.eqns:
        found |= {getattr(v.aval, "dtype", None) for v in equation.outvars}
        found = found.union(*map(_dtypes, inner(equation)))
    return {dtype for dtype in found if dtype is not None and not _extended(dtype)}


def _extended(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jax.dtypes.extended)


def zeros(aval: Any) -> Any:
    """A value of this type that nothing reads."""
    return tree.vary(_zeros(aval), varying_axes(aval))


def _zeros(aval: Any) -> Any:
    if not _extended(aval.dtype):
        return jnp.zeros(aval.shape, aval.dtype)
    return jnp.broadcast_to(jax.random.key(0, impl=_key_type(aval)), aval.shape)


def _key_type(aval: Any) -> Any:
    found: list[Any] = []
    example = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), example)
    return found[0]


def with_type(leaf: Any, aval: Any, weak: bool | None = None) -> Any:
    """`leaf` as an array of the type `aval`, weakly typed or not."""
    weak = aval.weak_type if weak is None else weak
    if _extended(aval.dtype):
        return leaf
    leaf = jnp.asarray(leaf, aval.dtype) if not isinstance(leaf, jax.Array) else leaf
    if leaf.dtype == aval.dtype and leaf.weak_type == weak:
        return leaf
    return converted(leaf, aval.dtype, weak)


def is_traced(value: Any) -> bool:
    """Whether `value` is known only when the compiled program runs."""
    return isinstance(value, jax.core.Tracer)
