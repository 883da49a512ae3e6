"""A block's variables as arrays and structure, and back; identity of lists and dicts is kept.

A variable's value is a tree whose leaves are arrays and Python numbers (what may change inside a
staged loop) and constants (what may not). Python's own lists and dicts are mutable: a block gets
fresh ones, and what it does to them is done to the originals afterwards, so that every other name
of the same list sees it, as in Python.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import FunctionType, MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from toolkit import tree
from toolkit.plain_python.around import Around
from toolkit.plain_python.errors import refuse
from toolkit.plain_python.lists import Recorder, Stacked, last_item


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
    # Those that are changed in place somewhere: only of these does it matter which object they are.
    mutated: tuple[str, ...] = ()

    def order(self) -> list[int]:
        """In which order they are encoded and decoded: first what decides on identity."""
        return sorted(range(len(self.names)), key=lambda k: self.names[k] not in self.mutated)

    def changing(self, names: Iterable[str]) -> Variables:
        """The same, where these are no longer expected to stay."""
        left = tuple(name for name in self.watched if name not in names)
        return self._replace(watched=left, mutated=(*self.mutated, *names))

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

    kind: Any  # a `_Kind`, or the one-level tree definition
    keys: tuple[Any, ...]
    children: tuple[Any, ...]
    number: int  # in order of encounter
    origin: Any  # the list or dict outside the block that this one stands for


Node = Slot | Constant | Absent | Growing | Again | Container


class _Kind(NamedTuple):
    """A container of Python's own, which changes in place."""

    type: Any
    default: Any  # of a defaultdict

    def empty(self) -> Any:
        return self.type(self.default) if self.type is defaultdict else self.type()


_MUTABLE = (list, dict, OrderedDict, defaultdict)
_LIST = _Kind(list, None)


def _kind(value: Any) -> _Kind:
    return _Kind(type(value), getattr(value, "default_factory", None))


class Encoded(NamedTuple):
    """One variable."""

    node: Node
    leaves: list[Any]  # of its slots, in order


class Encoder:
    """Encodes the values of several variables, which may share containers."""

    def __init__(self, origins: dict[int, Any] | None, known: Iterable[Node] = ()) -> None:
        # `None` outside a block: every container is its own origin.
        self.origins = origins
        self.met: dict[int, int] = {}  # containers in variables that are changed in place
        self.count = 0
        self.mutated = False
        self.known = {id(leaf) for node in known for leaf in _constants(node)}
        self.kept: list[Any] = []  # what `met` knows by id must live

    def encode(self, value: Any, mutated: bool = False) -> Encoded:
        leaves: list[Any] = []
        self.mutated = mutated
        return Encoded(self._node(value, leaves), leaves)

    def encode_watched(self, value: Any) -> Encoded:
        """A variable that is expected to stay: every leaf is a constant."""
        if isinstance(value, (Undefined, Iterator)):
            return self.encode(value)
        if not _holds_mutable(value):
            return Encoded(Constant(value), [])
        self.mutated = False
        return Encoded(self._node(value, None), [])

    def _node(self, value: Any, leaves: list[Any] | None) -> Node:
        if isinstance(value, Undefined):
            return Absent(value)
        if isinstance(value, Stacked):
            value = value.as_list()
        if value is None or isinstance(value, (str, bytes)):
            return Constant(value)
        if isinstance(value, Iterator):
            return Absent(Undefined("", _ITERATOR))
        if tree.is_numeric(value):
            if leaves is None:
                return Constant(value)
            leaves.append(value)
            return Slot()
        mutable = type(value) in _MUTABLE
        if mutable and id(value) in self.met:
            return Again(self.met[id(value)])
        number = self.count
        self.count += 1
        kind: Any
        keys: tuple[Any, ...]
        if type(value) is list:
            kind, keys, children = _LIST, (), value
        elif mutable:
            kind, keys, children = _kind(value), tuple(value), list(value.values())
        else:
            children, kind = jax.tree.flatten(value, is_leaf=_not_this(value))
            keys = ()
            if jax.tree_util.treedef_is_leaf(kind):
                new = self.origins is not None and id(value) not in self.known
                if new and holds_tracer(value):
                    return Absent(Undefined("", _OBJECT.format(type(value).__name__)))
                return Constant(value)
        if self.mutated:
            self.met[id(value)] = number
            self.kept.append(value)
        origin = value if self.origins is None else self.origins.get(id(value))
        nodes = tuple(self._node(child, leaves) for child in children)
        return Container(kind, keys, nodes, number, origin if mutable else None)


def _constants(node: Node) -> Iterator[Any]:
    if isinstance(node, Constant):
        yield node.value
    elif isinstance(node, Container):
        for child in node.children:
            yield from _constants(child)


def encode_growing(value: Any) -> Encoded:
    """A list that the block may append to."""
    last = last_item(value)
    if last is None or not all(map(tree.is_numeric, jax.tree.leaves(last[0]))):
        return Encoded(Growing(None), [])
    leaves, structure = jax.tree.flatten(last[0])
    return Encoded(Growing(structure), leaves)


def _holds_mutable(value: Any) -> bool:
    if type(value) in _MUTABLE:
        return True
    return isinstance(value, tuple) and any(map(_holds_mutable, value))


def _not_this(whole: Any) -> Callable[[Any], bool]:
    return lambda part: part is not whole


class Decoder:
    """Makes values from nodes; `fresh` containers for a block, or the originals after it."""

    def __init__(self, fresh: bool, mutated: tuple[str, ...]) -> None:
        self.fresh = fresh
        self.mutated = mutated  # the variables whose containers are changed in place
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
        mutable = isinstance(node.kind, _Kind)
        changed = mutable and not self.fresh and name in self.mutated
        reused = changed and node.origin is not None
        made: Any = node.origin if reused else node.kind.empty() if mutable else None
        if mutable:
            self.made[node.number] = made
        children = [self._value(name, child, leaves) for child in node.children]
        if node.kind == _LIST:
            made[:] = children
        elif mutable:
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
    if isinstance(node, Constant):
        return f"Python value {node.value!r}"
    if isinstance(node, Absent):
        return "undefined"
    if isinstance(node, Container):
        if isinstance(node.kind, _Kind) and node.kind != _LIST:
            return f"{node.kind.type.__name__} with keys {list(node.keys)}"
        word = node.kind.type.__name__ if isinstance(node.kind, _Kind) else _pytree_name(node.kind)
        return f"{word} of {len(node.children)}" + (
            f" ({', '.join(map(type_text, types))})" if 0 < len(types) <= 4 else ""
        )
    return "list"


def _pytree_name(kind: Any) -> str:
    made = kind.node_data()
    return made[0].__name__ if made else "pytree"


def type_text(aval: Any) -> str:
    """`float32[3,4]`."""
    return f"{aval.dtype}[{','.join(map(str, aval.shape))}]"


_ITERATOR = "it is an iterator, which would move on once, at trace time: use a list or an array, and index it"
_OBJECT = (
    "it is a {} made inside the block that holds a traced value and is no pytree: register it "
    "(jax.tree_util.register_dataclass), keep its parts in variables, or make it after the block"
)


def holds_tracer(value: Any, depth: int = 3) -> bool:
    """Whether an object that JAX cannot see into holds a traced value."""
    if isinstance(value, jax.core.Tracer):
        return True
    if depth == 0 or value is None or isinstance(value, (str, bytes, int, float, np.ndarray)):
        return False
    if isinstance(value, (list, tuple, set)):
        return any(holds_tracer(part, depth - 1) for part in value)
    if isinstance(value, dict):
        return any(holds_tracer(part, depth - 1) for part in value.values())
    if isinstance(value, FunctionType):
        return holds_tracer((value.__defaults__, value.__kwdefaults__), depth)
    if isinstance(value, partial):
        return holds_tracer((value.args, value.keywords), depth)
    inside = getattr(value, "__dict__", None)
    return isinstance(inside, (dict, MappingProxyType)) and holds_tracer(dict(inside), depth - 1)


def is_python_number(leaf: Any) -> bool:
    """Whether `leaf` is a number of Python's own, known before anything runs."""
    return isinstance(leaf, (bool, int, float, complex)) and not isinstance(leaf, np.generic)
