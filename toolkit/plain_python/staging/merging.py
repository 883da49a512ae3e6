"""One variable after the two branches of a traced condition.

If the branches leave `float32[3]` and `float32[3]`, it is a float32[3] that the condition selects. If
they leave `float32[3]` and `float32[4]`, it becomes an `Undefined` whose reason is the message: the
code is refused only if something reads the variable later.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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
    is_python_number,
    is_same_number,
    joined_dtype,
    type_text,
)
from toolkit.plain_python.carried.undefined import Undefined
from toolkit.plain_python.refusals import here
from toolkit.plain_python.reserved import RESULT, is_set_with_a_flag
from toolkit.plain_python.tracing.blocks import ExitValue
from toolkit.plain_python.tracing.intervals import Known, together
from toolkit.plain_python.tracing.unlike_python import is_exact, short

_WORDS = ("if", "else")


class MergedLeaf(NamedTuple):
    """One array or number after the two branches; `aval` is None if both leave the same `value`."""

    value: Any
    aval: Any
    outputs: tuple[int | None, int | None]  # the result of each branch; None if it is never read
    known: Known = None  # where it lies, if it is an integer of Python's


def merge(
    name: str, exits: list[ExitValue], guard: str | None, changing: bool, returned: set[int]
) -> tuple[Node, list[MergedLeaf]]:
    """A variable after the two branches, or an `Undefined` that says how they disagree.

    Args:
      guard: the flag that says that a loop was left, if the condition asks that.
      changing: whether the function changes the variable in place.
      returned: the branches that certainly end in an early `return`.
    """
    a, b = exits
    if name == guard and len(a.leaves) == 1 and a.leaves[0] is True:
        # The iteration sets the flag for certain, and if it is skipped the flag is True already.
        return a.node, [MergedLeaf(True, None, (None, None))]
    absent = [isinstance(exit.node, Absent) for exit in exits]
    if all(absent):
        # A reason, such as two values that disagree, must outlive "never assigned": the value of an
        # early `return` without a reason counts as not set, and zeros would stand for it.
        return (a if _reason(a) else b).node, []
    if any(absent):
        there = absent.index(False)
        lacking = _reason(exits[1 - there])
        # What an iteration assigns that a `break` may skip is kept from the iteration before.
        skipped = bool(guard) and there == 0
        unread = skipped or (1 - there) in returned
        # Nothing reads it if the other branch ran, because a flag says so: zeros can stand there.
        if not lacking if is_set_with_a_flag(name) else unread:
            return exits[there].node, [
                MergedLeaf(None, aval, (None, out) if there else (out, None), known)
                for aval, out, known in zip(*exits[there][2:], strict=True)
            ]
        return _absent(name, lacking or _one_sided(there)), []
    if isinstance(a.node, GrowingList) and isinstance(b.node, GrowingList):
        return a.node, []
    if not same_structure(a.node, b.node):
        return _absent(name, _disagreement(name, exits)), []
    # Leaf by leaf: what both branches leave alike stays what it was, a Python number included.
    merged = []
    for k, (left, right) in enumerate(zip(a.leaves, b.leaves, strict=True)):
        if _is_same(left, right):
            merged.append(MergedLeaf(left, None, (None, None)))
            continue
        common = common_type(a.types[k], b.types[k])
        if common is None:
            return _absent(name, _disagreement(name, exits)), []
        for number in (left, right):
            if not holds(common.dtype, number):
                return _absent(name, _not_in(name, _shown(number), common)), []
        for leaf, span in ((left, a.spans[k]), (right, b.spans[k])):
            if not is_python_number(leaf) and span is not None and not is_exact(common.dtype, span):
                reached = short(max(span.high, -span.low))
                return _absent(name, _not_in(name, f"of up to {reached}", common)), []
        known = together((a.spans[k], b.spans[k]))
        merged.append(MergedLeaf(None, common, (a.outputs[k], b.outputs[k]), known))
    if changing and _two_objects(a.node, b.node):
        return _absent(name, _two_of_them(name)), []
    return _with_common_origin(a.node, b.node), merged


def _reason(exit: ExitValue) -> str | None:
    """Why a variable that is absent has no value; None if it was never assigned."""
    return exit.node.undefined.reason if isinstance(exit.node, Absent) else None


def _is_same(left: Any, right: Any) -> bool:
    """Whether both branches leave the same value, which existed before them."""
    if left is right and left is not None:
        return True
    return is_same_number(left, right)


def common_type(a: Any, b: Any) -> Any:
    """The type that a value of type `a` and one of type `b` can both have; None if there is none.

    Only a weakly typed number, such as one of Python's, takes another type.
    """
    if a.shape != b.shape:
        return None
    if a.dtype == b.dtype:
        return a if not a.weak_type else b
    # Random keys have types that promote to no other.
    if jnp.issubdtype(a.dtype, jax.dtypes.extended) or jnp.issubdtype(b.dtype, jax.dtypes.extended):
        return None
    if not a.weak_type and not b.weak_type:
        return None
    dtype = joined_dtype(a, b)
    for strong in (a, b):
        if not strong.weak_type:
            return strong if dtype == strong.dtype else None
    return a if dtype == a.dtype else b


def _one_sided(there: int) -> str:
    """The reason why a variable may have no value: only the branch `there` assigns it."""
    return (
        f"it is assigned only in the {_WORDS[there]} branch of the traced if at line {here().line}; "
        "give it a value before the if"
    )


def _absent(name: str, reason: str) -> Node:
    return Absent(Undefined(name, reason))


def _disagreement(name: str, exits: list[ExitValue]) -> str:
    """The reason why a variable has no single value after the two branches, for a message."""
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
        shown = f"the returned value{path.removeprefix(name)}" if name == RESULT else f"'{path}'"
    left, right = (
        describe(node, exit.types if whole else ()) for node, exit in zip(nodes, exits, strict=True)
    )
    if isinstance(a.node, ConstantLeaf) and isinstance(b.node, ConstantLeaf):
        return (
            f"{shown} is {left} after {after[0]} and {right} after {after[1]} of the traced if at line "
            f"{here().line}; only arrays and numbers can depend on a traced condition"
        )
    return (
        f"{shown} has a different structure in the two branches of the traced if at line "
        f"{here().line}: {left} after {after[0]}, {right} after {after[1]}"
    )


def _not_in(name: str, number: str, common: Any) -> str:
    """The reason why a number of one branch cannot have the type of the other branch's value."""
    shown = "the returned value" if name == RESULT else f"'{name}'"
    return (
        f"{shown} is the Python number {number} after one branch of the traced if at line "
        f"{here().line} and would be a {type_text(common)} after both, which cannot hold it: give "
        "both branches one dtype that can"
    )


def _shown(number: Any) -> str:
    huge = isinstance(number, int) and abs(number) > 2**100
    return short(number) if huge else repr(number)


def _two_of_them(name: str) -> str:
    return (
        f"'{name}' is one list or dict after the if branch and another after the else branch of the "
        f"traced if at line {here().line}: choose an index, or the values, by the condition"
    )


def _two_objects(a: Node, b: Node) -> bool:
    """Whether a variable holds one existing list or dict after one branch, and another after the other.

    A change in place would then have to reach one of them, depending on data.
    """
    if not isinstance(a, Container) or not isinstance(b, Container):
        return False
    if a.origin is not None and b.origin is not None and a.origin is not b.origin:
        return True
    return any(map(_two_objects, a.children, b.children))


def _with_common_origin(a: Node, b: Node) -> Node:
    """The node of both: if only one branch keeps the original list, the variable holds a new one."""
    if not isinstance(a, Container) or not isinstance(b, Container):
        return a
    children = tuple(map(_with_common_origin, a.children, b.children))
    return a._replace(children=children, origin=a.origin if a.origin is b.origin else None)
