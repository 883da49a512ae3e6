"""The values of variables as arrays and structure, and back; the identity of lists and dicts is kept.

A loop of JAX carries arrays. So `d = {"w": array, "name": "a"}` is encoded as a structure and the
list `[array]`, and decoded from new arrays afterwards.

Python's lists and dicts change in place, and a trace must not change the user's. So a block gets
copies of them. What it did to a copy is done to the original afterwards, and every other name of the
same list then sees the change, as in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

import jax

from toolkit import tree
from toolkit.plain_python.carried.closures import ClosureKind, closure_of
from toolkit.plain_python.carried.lists import ListRecorder, StackedList, last_item
from toolkit.plain_python.carried.reachable import holds_tracer
from toolkit.plain_python.carried.structure import (
    LIST,
    MUTABLE,
    Absent,
    ConstantLeaf,
    Container,
    GrowingList,
    MetBefore,
    MutableKind,
    Node,
    Slot,
    constants,
    kind_of,
)
from toolkit.plain_python.carried.undefined import Undefined
from toolkit.plain_python.refusals import refuse

_ITERATOR = "it is an iterator, which would move on once, at trace time: use a list or an array, and index it"
_OBJECT = (
    "it is a {} made inside the block that holds a traced value and is no pytree: register it "
    "(jax.tree_util.register_dataclass), keep its parts in variables, or make it after the block"
)


class EncodedVariable(NamedTuple):
    """The value of one variable."""

    node: Node
    leaves: list[Any]  # the arrays and numbers of its slots, in order


class Encoder:
    """Encodes the values of several variables, which may share lists and dicts.

    Args:
      origins: inside a block, for the id of each copy the list or dict that it was made from; None
        outside a block, where every list or dict is its own origin.
      known: the values before the block, whose constants may hold anything.
      own: ids of the cells of the function's own variables.
    """

    def __init__(
        self,
        origins: dict[int, Any] | None,
        known: Iterable[Node] = (),
        own: Collection[int] = (),
    ) -> None:
        self.origins = origins
        self.met: dict[int, int] = {}  # by id: the number of a container that was met before
        self.count = 0
        self.mutated = False
        self.own = own
        self.known = {id(leaf) for node in known for leaf in constants(node)}
        # Python gives the id of a deleted object to a new one, which would then look like the old one.
        # So each object that is known by its id is kept alive here.
        self.kept: list[Any] = []

    def encode(self, value: Any, mutated: bool = False) -> EncodedVariable:
        leaves: list[Any] = []
        self.mutated = mutated
        return EncodedVariable(self._node(value, leaves), leaves)

    def encode_watched(self, value: Any) -> EncodedVariable:
        """A variable that the block is expected to leave alone: its arrays count as constants too."""
        if isinstance(value, (Undefined, Iterator)):
            return self.encode(value)
        if not _holds_mutable(value):
            return EncodedVariable(ConstantLeaf(value), [])
        self.mutated = False
        return EncodedVariable(self._node(value, None), [])

    def _node(self, value: Any, leaves: list[Any] | None) -> Node:
        if isinstance(value, Undefined):
            return Absent(value)
        if isinstance(value, StackedList):
            value = value.as_list()
        if value is None or isinstance(value, (str, bytes)):
            return ConstantLeaf(value)
        if isinstance(value, Iterator):
            return Absent(Undefined("", _ITERATOR))
        if tree.is_numeric(value):
            if leaves is None:
                return ConstantLeaf(value)
            leaves.append(value)
            return Slot()
        mutable = type(value) in MUTABLE
        if mutable and id(value) in self.met:
            return MetBefore(self.met[id(value)])
        number = self.count
        self.count += 1
        kind: Any
        keys: tuple[Any, ...]
        if type(value) is list:
            kind, keys, children = LIST, (), value
        elif mutable:
            kind, keys, children = kind_of(value), tuple(value), list(value.values())
        else:
            children, kind = jax.tree.flatten(value, is_leaf=_not_this(value))
            keys = ()
            if jax.tree_util.treedef_is_leaf(kind):
                return self._object(value, leaves)
        # Two names of one list matter only if it changes in place; else each is encoded on its own, and
        # may take a type of its own.
        if self.mutated:
            self.met[id(value)] = number
            self.kept.append(value)
        origin = value if self.origins is None else self.origins.get(id(value))
        nodes = tuple(self._node(child, leaves) for child in children)
        return Container(kind, keys, nodes, number, origin if mutable else None)

    def _object(self, value: Any, leaves: list[Any] | None) -> Node:
        """An object that JAX cannot see into.

        It may hold a tracer of the block, which would be invalid after it. Objects that existed before the
        block cannot.
        """
        new = self.origins is not None and id(value) not in self.known
        closure = closure_of(value, self.own) if new else None
        traced = new and holds_tracer(value, self.own)
        made = self.closure(closure, leaves) if traced and closure else None
        if made is not None:
            return made
        if traced:
            return Absent(Undefined("", _OBJECT.format(type(value).__name__)))
        return ConstantLeaf(value)

    def closure(self, kind: ClosureKind, leaves: list[Any] | None) -> Node | None:
        """A function that holds values of the block; None if these cannot be carried."""
        number = self.count
        self.count += 1
        nodes = tuple(self._node(value, leaves) for value in kind.values())
        if any(isinstance(node, Absent) for node in nodes):
            return None
        return Container(kind, (), nodes, number, None)


def encode_growing(value: Any) -> EncodedVariable:
    """A list that the block appends to: its last item, which is all that the block may read."""
    last = last_item(value)
    if last is None or not all(map(tree.is_numeric, jax.tree.leaves(last[0]))):
        return EncodedVariable(GrowingList(None), [])
    leaves, structure = jax.tree.flatten(last[0])
    return EncodedVariable(GrowingList(structure), leaves)


def _holds_mutable(value: Any) -> bool:
    if type(value) in MUTABLE:
        return True
    return isinstance(value, tuple) and any(map(_holds_mutable, value))


# With this `is_leaf` a tree is flattened by one level only.
def _not_this(whole: Any) -> Callable[[Any], bool]:
    return lambda part: part is not whole


class Decoder:
    """Makes values from structure and leaves.

    Args:
      fresh: True before a block, which gets new lists and dicts; False after it, where the originals
        take on what the block did.
      mutated: the variables whose lists and dicts change in place; others get new ones.
    """

    def __init__(self, fresh: bool, mutated: tuple[str, ...]) -> None:
        self.fresh = fresh
        self.mutated = mutated
        self.origins: dict[int, Any] = {}  # by the id of a copy: the list or dict it was made from
        self.made: dict[int, Any] = {}  # by number, for `MetBefore`
        self.kept: list[Any] = []  # copies, alive as long as `origins` knows them by their ids

    def decode(self, name: str, node: Node, leaves: Iterable[Any]) -> Any:
        return self._value(name, node, iter(leaves))

    def _value(self, name: str, node: Node, leaves: Iterator[Any]) -> Any:
        if isinstance(node, Slot):
            return next(leaves)
        if isinstance(node, ConstantLeaf):
            return node.value
        if isinstance(node, Absent):
            return node.undefined
        if isinstance(node, GrowingList):
            known = node.last is not None
            return ListRecorder(
                name, [jax.tree.unflatten(node.last, list(leaves))] if known else []
            )
        if isinstance(node, MetBefore):
            if node.number not in self.made:
                raise refuse(
                    f"`{name}` is another name of a list or dict that changes its structure in this "
                    "block: give it one name there."
                )
            return self.made[node.number]
        return self._container(name, node, leaves)

    def _container(self, name: str, node: Container, leaves: Iterator[Any]) -> Any:
        # After a block the user's own list takes the new items if the block changes it in place, so that
        # its other names see them. Else the variable gets a new list.
        mutable = isinstance(node.kind, MutableKind)
        changed = mutable and not self.fresh and name in self.mutated
        reused = changed and node.origin is not None
        made: Any = node.origin if reused else node.kind.empty() if mutable else None
        # Known before its children are made, since a list may contain itself.
        if mutable:
            self.made[node.number] = made
        children = [self._value(name, child, leaves) for child in node.children]
        if node.kind == LIST:
            made[:] = children
        elif mutable:
            made.clear()
            made.update(zip(node.keys, children, strict=True))
        elif isinstance(node.kind, ClosureKind):
            made = node.kind.with_values(children)
        else:
            made = jax.tree.unflatten(node.kind, children)
        if mutable and self.fresh:
            self.kept.append(made)
            self.origins[id(made)] = node.origin
        return made
