"""The structure of a variable's value: what stays the same while its arrays change."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax

from toolkit.plain_python.carried.arrays import type_text
from toolkit.plain_python.carried.undefined import Undefined


class Slot(NamedTuple):
    """An array or a Python number."""


class ConstantLeaf(NamedTuple):
    """Any other leaf."""

    value: Any


class Absent(NamedTuple):
    """No value."""

    undefined: Undefined


class GrowingList(NamedTuple):
    """A list that the block may append to; its slots are the last item's."""

    last: Any  # tree definition of the last item; None where there is none that can be carried


class MetBefore(NamedTuple):
    """The container met before under this number."""

    number: int


class Container(NamedTuple):
    """An inner node: a list, a dict, or any registered pytree."""

    kind: Any  # a `MutableKind`, or the one-level tree definition
    keys: tuple[Any, ...]
    children: tuple[Any, ...]
    number: int  # in order of encounter
    origin: Any  # the list or dict outside the block that this one stands for


Node = Slot | ConstantLeaf | Absent | GrowingList | MetBefore | Container


class MutableKind(NamedTuple):
    """A container of Python's own, which changes in place."""

    type: Any
    default: Any  # of a defaultdict

    def empty(self) -> Any:
        return self.type(self.default) if self.type is defaultdict else self.type()


MUTABLE = (list, dict, OrderedDict, defaultdict)


LIST = MutableKind(list, None)


def kind_of(value: Any) -> MutableKind:
    return MutableKind(type(value), getattr(value, "default_factory", None))


def constants(node: Node) -> Iterator[Any]:
    if isinstance(node, ConstantLeaf):
        yield node.value
    elif isinstance(node, Container):
        for child in node.children:
            yield from constants(child)


def same_structure(a: Node, b: Node) -> bool:
    """Whether two nodes differ in the values of their slots only."""
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
    return True


def same_constant(a: Any, b: Any) -> bool:
    """Whether two leaves that are no arrays are the same."""
    if a is b:
        return True
    if isinstance(a, jax.Array) or isinstance(b, jax.Array):
        return False
    try:
        return type(a) is type(b) and bool(a == b)
    except Exception:  # a user's `__eq__` may do anything
        return False


def paths(node: Node, name: str) -> list[str]:
    """How a user would write each slot: `d['a'][0]`."""
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
