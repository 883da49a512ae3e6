"""A block's variables as arrays and structure, and back; identity of lists and dicts is kept.

A variable's value is a tree whose leaves are arrays and Python numbers (what may change inside a
staged loop) and constants (what may not). Python's own lists and dicts are mutable: a block gets
fresh ones, and what it does to them is done to the originals afterwards, so that every other name
of the same list sees it, as in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from toolkit import tree
from toolkit.control.python.around import Around
from toolkit.control.python.errors import refuse
from toolkit.control.python.lists import Recorder, Stacked, last_item


class Undefined:
    """The value of a variable that has none, or may have none; reading it says why."""

    def __init__(self, name: str, reason: str | None = None) -> None:
        self.name = name
        self.reason = reason

    def __repr__(self) -> str:
        return f"<{self.name} is not defined>"


class Variables(NamedTuple):
    """The variables that a block may change."""

    reads: tuple[Callable[[], Any], ...]
    write: Callable[..., None]
    names: tuple[str, ...]
    grown: tuple[str, ...]  # those that it appends to
    # The last ones are only handed on: a list or dict among them may be changed by what is called.
    watched: tuple[str, ...] = ()
    around: Around = Around((), ())

    def values(self) -> list[Any]:
        """What they are now."""
        return [_value(read, name) for read, name in zip(self.reads, self.names, strict=True)]


def _value(read: Callable[[], Any], name: str) -> Any:
    try:
        return read()
    except NameError:
        return Undefined(name)


class Slot(NamedTuple):
    """An array or a Python number."""


class Constant(NamedTuple):
    """Any other leaf."""

    value: Any


class Absent(NamedTuple):
    """No value."""

    undefined: Undefined


class Growing(NamedTuple):
    """A list that the block may append to; its slots are the last item's."""

    last: Any  # tree definition of the last item; None where there is none that can be carried


class Again(NamedTuple):
    """The container met before under this number."""

    number: int


class Container(NamedTuple):
    """An inner node: a list, a dict, or any registered pytree."""

    kind: Any  # list, dict, or the one-level tree definition
    keys: tuple[Any, ...]
    children: tuple[Any, ...]
    number: int  # in order of encounter
    origin: Any  # the list or dict outside the block that this one stands for


Node = Slot | Constant | Absent | Growing | Again | Container


class Encoded(NamedTuple):
    """One variable."""

    node: Node
    leaves: list[Any]  # of its slots, in order


class Encoder:
    """Encodes the values of several variables, which may share containers."""

    def __init__(self, origins: dict[int, Any] | None) -> None:
        # `None` outside a block: every container is its own origin.
        self.origins = origins
        self.met: dict[int, int] = {}
        self.kept: list[Any] = []  # what `met` knows by id must live

    def encode(self, value: Any) -> Encoded:
        leaves: list[Any] = []
        return Encoded(self._node(value, leaves), leaves)

    def encode_watched(self, value: Any) -> Encoded:
        """A variable that is expected to stay: every leaf is a constant."""
        if not _holds_mutable(value):
            return Encoded(Constant(value), [])
        return Encoded(self._node(value, None), [])

    def _node(self, value: Any, leaves: list[Any] | None) -> Node:
        if isinstance(value, Undefined):
            return Absent(value)
        if isinstance(value, Stacked):
            value = value.as_list()
        if value is None or isinstance(value, (str, bytes)):
            return Constant(value)
        if tree.is_numeric(value):
            if leaves is None:
                return Constant(value)
            leaves.append(value)
            return Slot()
        mutable = type(value) in (list, dict)
        if mutable and id(value) in self.met:
            return Again(self.met[id(value)])
        number = len(self.met)
        kind: Any
        keys: tuple[Any, ...]
        if type(value) is list:
            kind, keys, children = list, (), value
        elif type(value) is dict:
            kind, keys, children = dict, tuple(value), list(value.values())
        else:
            children, kind = jax.tree.flatten(value, is_leaf=_not_this(value))
            keys = ()
            if jax.tree_util.treedef_is_leaf(kind):
                return Constant(value)
        self.met[id(value)] = number
        self.kept.append(value)
        origin = value if self.origins is None else self.origins.get(id(value))
        nodes = tuple(self._node(child, leaves) for child in children)
        return Container(kind, keys, nodes, number, origin if mutable else None)


def encode_growing(value: Any) -> Encoded:
    """A list that the block may append to."""
    last = last_item(value)
    if last is None or not all(map(tree.is_numeric, jax.tree.leaves(last[0]))):
        return Encoded(Growing(None), [])
    leaves, structure = jax.tree.flatten(last[0])
    return Encoded(Growing(structure), leaves)


def _holds_mutable(value: Any) -> bool:
    if type(value) in (list, dict):
        return True
    return isinstance(value, tuple) and any(map(_holds_mutable, value))


def _not_this(whole: Any) -> Callable[[Any], bool]:
    return lambda part: part is not whole


class Decoder:
    """Makes values from nodes; `fresh` containers for a block, or the originals after it."""

    def __init__(self, fresh: bool) -> None:
        self.fresh = fresh
        self.origins: dict[int, Any] = {}  # by the id of a fresh container: what it stands for
        self.made: dict[int, Any] = {}
        self.kept: list[Any] = []

    def decode(self, name: str, node: Node, leaves: Iterable[Any]) -> Any:
        return self._value(name, node, iter(leaves))

    def _value(self, name: str, node: Node, leaves: Iterator[Any]) -> Any:
        if isinstance(node, Slot):
            return next(leaves)
        if isinstance(node, Constant):
            return node.value
        if isinstance(node, Absent):
            return node.undefined
        if isinstance(node, Growing):
            known = node.last is not None
            return Recorder(name, [jax.tree.unflatten(node.last, list(leaves))] if known else [])
        if isinstance(node, Again):
            if node.number not in self.made:
                raise refuse(
                    f"`{name}` is another name of a list or dict that changes its structure in this "
                    "block: give it one name there."
                )
            return self.made[node.number]
        return self._container(name, node, leaves)

    def _container(self, name: str, node: Container, leaves: Iterator[Any]) -> Any:
        mutable = node.kind in (list, dict)
        reused = mutable and not self.fresh and node.origin is not None
        made: Any = node.origin if reused else node.kind() if mutable else None
        if mutable:
            self.made[node.number] = made
        children = [self._value(name, child, leaves) for child in node.children]
        if node.kind is list:
            made[:] = children
        elif node.kind is dict:
            made.clear()
            made.update(zip(node.keys, children, strict=True))
        else:
            made = jax.tree.unflatten(node.kind, children)
        if mutable and self.fresh:
            self.kept.append(made)
            self.origins[id(made)] = node.origin
        return made


def same_structure(a: Node, b: Node) -> bool:
    """Whether two nodes differ in the values of their slots only."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Constant) and isinstance(b, Constant):
        return same_constant(a.value, b.value)
    if isinstance(a, (Again, Growing)):
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
    if isinstance(node, Growing) and node.last is not None:
        return [f"{name}[-1]"] * node.last.num_leaves
    if not isinstance(node, Container):
        return []
    keys = [repr(key) for key in node.keys] or [str(k) for k in range(len(node.children))]
    return [
        path
        for key, child in zip(keys, node.children, strict=True)
        for path in paths(child, f"{name}[{key}]")
    ]


def describe(node: Node, types: Iterable[Any]) -> str:
    """What a variable is, in a few words."""
    types = list(types)
    if isinstance(node, Slot):
        return type_text(types[0])
    if isinstance(node, Constant):
        return f"Python value {node.value!r}"
    if isinstance(node, Absent):
        return "undefined"
    if isinstance(node, Container):
        if node.kind is dict:
            return f"dict with keys {list(node.keys)}"
        word = "list" if node.kind is list else str(node.kind)
        return f"{word} of {len(node.children)}" + (
            f" ({', '.join(map(type_text, types))})" if 0 < len(types) <= 4 else ""
        )
    return "list"


def type_text(aval: Any) -> str:
    """`float32[3,4]`."""
    return f"{aval.dtype}[{','.join(map(str, aval.shape))}]"


def is_python_number(leaf: Any) -> bool:
    """Whether `leaf` is a number of Python's own, known before anything runs."""
    return isinstance(leaf, (bool, int, float, complex)) and not isinstance(leaf, np.generic)
