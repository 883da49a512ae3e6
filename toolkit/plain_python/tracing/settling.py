"""Tracing a loop's block until its variables have types that one iteration does not change.

A loop of JAX needs the same types before and after each iteration; Python does not.

    s = 0                   # before the loop an integer,
    for x in xs:
        s = s + x           # after one iteration a float32: `s` begins as 0.0
        y = 2 * x           # assigned before it is read: `y` needs no value before the loop

So the block is traced, the types at its end are compared with those at its start, the start is
adapted as above, and the block is traced again until nothing changes. What cannot be adapted is told
to the caller by `UnsettledTypes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.plain_python.carried.closures import closure_of
from toolkit.plain_python.carried.encoding import EncodedVariable, Encoder
from toolkit.plain_python.carried.structure import (
    Absent,
    ConstantLeaf,
    Container,
    GrowingList,
    Node,
    describe,
    difference,
    paths,
    same_structure,
)
from toolkit.plain_python.carried.typed_arrays import (
    holds,
    joined_dtype,
    type_text,
    with_type,
    zeros,
)
from toolkit.plain_python.carried.undefined import Undefined, UndefinedRead
from toolkit.plain_python.carried.variables import Variables
from toolkit.plain_python.refusals import here
from toolkit.plain_python.reserved import is_set_with_a_flag
from toolkit.plain_python.tracing.blocks import ExitValue, TracedBlock, encode_entry, trace
from toolkit.plain_python.tracing.known_intervals import known_of, note
from toolkit.plain_python.tracing.reading import changed_by_calls, has_other_width, uses_input


class SettledBlock(NamedTuple):
    """A block whose types one iteration does not change."""

    traced: TracedBlock
    entry: list[EncodedVariable]
    watched: tuple[str, ...]  # variables that the block leaves alone
    mutated: tuple[str, ...]  # variables whose lists and dicts change in place


class UnsettledTypes(Exception):
    """A variable changes its type, and the block reads it before it assigns it."""

    def __init__(self, changes: list[str]) -> None:
        super().__init__("; ".join(changes))
        self.changes = changes


def settle(
    variables: Variables, run: Callable[[Any], None], example: Any, may_not_run: bool
) -> SettledBlock:
    """Trace a block until its types are stable.

    Args:
      run: one iteration, given an item like `example`.
      may_not_run: whether the loop may have no iteration, so that the types before it must hold after.

    Raises:
      UnsettledTypes: if they do not become stable.
      UndefinedRead: if the block reads a variable that has no value.
    """
    entry = encode_entry(variables, variables.values(), loop=True)
    # Variables whose value before the loop does not fit and seems not to be read: the next trace sees
    # them as undefined, and fails if it does read them.
    hidden: dict[int, Undefined] = {}
    changes: dict[int, str] = {}
    # This ends: each pass widens a type or hides a variable, and neither can happen without end.
    while True:
        try:
            traced = trace(variables, entry, run, example, conditional=may_not_run)
        except UndefinedRead as error:
            if error.undefined in hidden.values():
                raise UnsettledTypes(list(changes.values())) from None
            own = any(getattr(one.node, "undefined", None) is error.undefined for one in entry)
            if error.undefined.reason or not own:
                raise
            if may_not_run:
                reason = first_assigned()
                name = error.undefined.name
                raise UndefinedRead.of(Undefined(name, reason), name) from None
            # Perhaps only later iterations read it, as under `if i > 0:`. The caller runs the first
            # iteration on its own, where Python knows.
            raise UnsettledTypes(
                [f"'{error.undefined.name}' is undefined in the first one"]
            ) from None
        if changed := changed_by_calls(variables, entry, traced):
            return settle(variables.changing(changed), run, example, may_not_run)
        new = list(entry)
        position = 0
        for k, name in enumerate(variables.names):
            width = len(entry[k].leaves)
            following = _next_entry(traced, entry[k], traced.exits[k], k, name)
            if following is not None:
                new[k] = following
            else:
                changes[k] = _change(name, entry[k], traced, k)
                if any(uses_input(traced, position + j) for j in range(width)):
                    raise UnsettledTypes([changes[k]])
                if isinstance(entry[k].node, GrowingList):
                    new[k] = EncodedVariable(GrowingList(None), [])
                else:
                    hidden[k] = Undefined(name, _why(traced.exits[k], changes[k], may_not_run))
                    new[k] = EncodedVariable(Absent(hidden[k]), [])
            position += width
        if all(a is b for a, b in zip(new, entry, strict=True)):
            return SettledBlock(traced, entry, variables.watched, variables.mutated)
        entry = new


def _why(exit: ExitValue, change: str, may_not_run: bool) -> str:
    if isinstance(exit.node, Absent) and exit.node.undefined.reason:
        return exit.node.undefined.reason
    if may_not_run:
        return f"{change} (the loop at line {here().line} may run zero times)"
    return change


def _next_entry(
    traced: TracedBlock, one: EncodedVariable, exit: ExitValue, k: int, name: str
) -> EncodedVariable | None:
    """What the next trace should begin with for this variable; the same object if it fits already.

    None if nothing fits.
    """
    if isinstance(one.node, Absent):
        if (
            is_set_with_a_flag(name)
            and not isinstance(exit.node, Absent)
            and not one.leaves
            and exit.types
        ):
            # The value of an early `return` is read only if a flag says that it was set. So zeros of its
            # type can stand in the carry before.
            return EncodedVariable(exit.node, [zeros(aval) for aval in exit.types])
        return one
    if isinstance(one.node, GrowingList) and not isinstance(exit.node, GrowingList):
        # The block assigns a new list to the name, so the list from before the loop is not carried.
        return EncodedVariable(Absent(Undefined(name)), [])
    if not same_structure(one.node, exit.node):
        return _as_closure(one.node, exit.node)
    leaves = list(one.leaves)
    for j, (old, now) in enumerate(zip(traced.entry_types[k], exit.types, strict=True)):
        if old.shape != now.shape:
            return None
        if old.dtype != now.dtype:
            promoted = _promoted(one.leaves[j], old, now)
            if promoted is None:
                return None
            leaves[j] = promoted
        elif old.weak_type and not now.weak_type and _matters(traced, old.dtype):
            leaves[j] = with_type(one.leaves[j], now)
        if not varying_axes(now) <= varying_axes(old):
            # In `jax.shard_map` a value that is equal on all devices before the loop may differ after it.
            # A carry has one type, so it is marked as differing from the start.
            leaves[j] = vary(with_type(leaves[j], now), varying_axes(now))
    if all(a is b for a, b in zip(leaves, one.leaves, strict=True)):
        return one
    return EncodedVariable(one.node, leaves)


def _as_closure(before: Node, after: Node) -> EncodedVariable | None:
    """A function before the loop, as the values that it holds, if an iteration puts others in their place."""
    if not isinstance(before, ConstantLeaf) or not isinstance(after, Container):
        return None
    own = getattr(after.kind, "own", None)
    kind = None if own is None else closure_of(before.value, own)
    if kind is None or kind != after.kind:
        return None
    leaves: list[Any] = []
    node = Encoder(None).closure(kind, leaves)
    return None if node is None else EncodedVariable(node, leaves)


def _matters(traced: TracedBlock, dtype: Any) -> bool:
    """Whether a number of this dtype may act otherwise if it is weakly typed."""
    return dtype == jnp.bool_ or has_other_width(traced, dtype)


def _promoted(leaf: Any, old: Any, now: Any) -> Any:
    """A number from before the loop in the type that it gets in the loop; None if it does not fit."""
    # Only numbers of Python's are promoted, which are weakly typed.
    if not old.weak_type and not isinstance(leaf, bool):
        return None
    if joined_dtype(old, now) != now.dtype and jnp.promote_types(old.dtype, now.dtype) != now.dtype:
        return None
    if not holds(now.dtype, leaf):
        return None  # its value would change
    promoted = with_type(leaf, now)
    return note(promoted, known_of(leaf)) if now.weak_type else promoted


def _change(name: str, one: EncodedVariable, traced: TracedBlock, k: int) -> str:
    """How a variable changes in one iteration, for a message."""
    exit = traced.exits[k]
    old, now = traced.entry_types[k], exit.types
    if isinstance(exit.node, Absent):
        reason = exit.node.undefined.reason or "undefined after one iteration"
        return f"'{name}': {reason}"
    if same_structure(one.node, exit.node):
        for path, a, b in zip(paths(one.node, name), old, now, strict=True):
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                return f"'{path}': {type_text(a)} before, {type_text(b)} after one iteration"
    name, before_node, after_node = difference(name, one.node, exit.node)
    whole = before_node is one.node
    before = describe(before_node, old if whole else ())
    after = describe(after_node, now if whole else ())
    if before.startswith("Python value") and after.startswith("Python value"):
        return (
            f"'{name}': {before} becomes {after.removeprefix('Python value ')}; only arrays and "
            "numbers can change inside a staged loop"
        )
    return f"'{name}': {before} before, {after} after one iteration"


def first_assigned() -> str:
    """The reason why a variable may have no value after a loop that may run zero times."""
    line = here().line
    return f"it is first assigned inside the loop at line {line}; give it a value before the loop"
