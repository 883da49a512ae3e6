"""The structure of a variable's value: what stays the same while its arrays change.

`{"w": array, "name": "a"}` is a Container of kind dict with keys `("w", "name")` and the children
`Slot()` and `ConstantLeaf("a")`; the array itself stands apart, in a list of leaves.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax

from toolkit.plain_python.carried.closures import ClosureKind
from toolkit.plain_python.carried.typed_arrays import type_text
from toolkit.plain_python.carried.undefined import Undefined


class Slot(NamedTuple):
    """The place of an array or a Python number, which may change in a staged block."""


class ConstantLeaf(NamedTuple):
    """Any other leaf (a string, a function, None), which must stay the same."""

    value: Any


class Absent(NamedTuple):
    """A variable without a value."""

    undefined: Undefined


class GrowingList(NamedTuple):
    """A list that the block appends to. Only the arrays of its last item are carried."""

    last: Any  # tree definition of the last item; None if the list is empty or holds no arrays


class MetBefore(NamedTuple):
    """A further reference to a container that stands elsewhere under this number."""

    number: int


class Container(NamedTuple):
    """An inner node: a list, a dict, or any registered pytree."""

    kind: Any  # a `MutableKind`, or the one-level tree definition
    keys: tuple[Any, ...]
    children: tuple[Any, ...]
    number: int  # a running number, to which `MetBefore` refers
    origin: Any  # the list or dict outside the block that this one is a copy of


Node = Slot | ConstantLeaf | Absent | GrowingList | MetBefore | Container


class MutableKind(NamedTuple):
    """The type of a list or dict, which can change in place."""

    type: Any
    default: Any  # of a defaultdict

    def empty(self) -> Any:
        return self.type(self.default) if self.type is defaultdict else self.type()


# Only these types, not their subclasses: a user's class may keep more than its items.
MUTABLE = (list, dict, OrderedDict, defaultdict)
LIST = MutableKind(list, None)


def kind_of(value: Any) -> MutableKind:
    return MutableKind(type(value), getattr(value, "default_factory", None))


def constants(node: Node) -> Iterator[Any]:
    """The constant leaves of a value."""
    if isinstance(node, ConstantLeaf):
        yield node.value
    elif isinstance(node, Container):
        for child in node.children:
            yield from constants(child)


def same_structure(a: Node, b: Node) -> bool:
    """Whether two values differ at most in their arrays and numbers."""
    if type(a) is not type(b):
        return False
    if isinstance(a, ConstantLeaf) and isinstance(b, ConstantLeaf):
        return same_constant(a.value, b.value)
    if isinstance(a, (MetBefore, GrowingList)):
        return a == b
    if isinstance(a, Container) and isinstance(b, Container):
        return (
            a.kind == b.kind
            and a.keys == b.keys
            and len(a.children) == len(b.children)
            and all(map(same_structure, a.children, b.children))
        )
    return True  # two slots, or two variables without a value


def same_constant(a: Any, b: Any) -> bool:
    """Whether two leaves that are not arrays are the same."""
    if a is b:
        return True
    # The values of tracers cannot be compared, and those of other arrays only slowly.
    if isinstance(a, jax.Array) or isinstance(b, jax.Array):
        return False
    try:
        return type(a) is type(b) and bool(a == b)
    except Exception:  # a user's `__eq__` may do anything
        return False


def paths(node: Node, name: str) -> list[str]:
    """For each array of a value, how a user would write it: `d['a'][0]`."""
    if isinstance(node, Slot):
        return [name]
    if isinstance(node, GrowingList) and node.last is not None:
        return [f"{name}[-1]"] * node.last.num_leaves
    if not isinstance(node, Container):
        return []
    keys = [repr(key) for key in node.keys] or [str(k) for k in range(len(node.children))]
    return [
        path
        for key, child in zip(keys, node.children, strict=True)
        for path in paths(child, f"{name}[{key}]")
    ]


def difference(path: str, a: Node, b: Node) -> tuple[str, Node, Node]:
    """Where two variables first differ in structure: the path, and what stands there."""
    if (
        isinstance(a, Container)
        and isinstance(b, Container)
        and (a.kind, a.keys, len(a.children)) == (b.kind, b.keys, len(b.children))
    ):
        keys = [repr(key) for key in a.keys] or [str(k) for k in range(len(a.children))]
        for key, left, right in zip(keys, a.children, b.children, strict=True):
            if not same_structure(left, right):
                return difference(f"{path}[{key}]", left, right)
    return path, a, b


def describe(node: Node, types: Iterable[Any]) -> str:
    """What a variable is, in a few words."""
    types = list(types)
    if isinstance(node, Slot):
        return type_text(types[0]) if len(types) == 1 else "a number or an array"
    if isinstance(node, ConstantLeaf):
        return f"Python value {node.value!r}"
    if isinstance(node, Absent):
        return "undefined"
    if isinstance(node, Container) and isinstance(node.kind, ClosureKind):
        return f"Python value {node.kind.function!r}"
    if isinstance(node, Container):
        if isinstance(node.kind, MutableKind) and node.kind != LIST:
            return f"{node.kind.type.__name__} with keys {list(node.keys)}"
        word = (
            node.kind.type.__name__
            if isinstance(node.kind, MutableKind)
            else _pytree_name(node.kind)
        )
        return f"{word} of {len(node.children)}" + (
            f" ({', '.join(map(type_text, types))})" if 0 < len(types) <= 4 else ""
        )
    return "list"


def _pytree_name(kind: Any) -> str:
    made = kind.node_data()
    return made[0].__name__ if made else "pytree"
