"""What can change in place, part by part: how to read what it holds, and how to put that back.

A list holds its items, an object its attributes, a closure the value of its variable, an iterator
its position, `random` its state. Two readings of what did not change have identical parts.
"""

from __future__ import annotations

import array
import ast
import gc
import io
import operator
import random
import types
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

_UNSET = object()
PLAIN = "`{}`"  # what a variable holds itself
_DRAW_BEFORE = "Use jax.random with a key, or draw the numbers before."
_GO_OVER = "Go over a list or an array, or take the items before."


class Holder(NamedTuple):
    """Something that can change in place."""

    owner: Any  # kept alive, so that its id stays its own
    what: str  # for messages, with the place of the variable's name
    parts: Callable[[], list[Any]]  # what it holds now
    put_back: Callable[[list[Any]], None] | None  # None if it cannot be undone
    bulk: int = (
        0  # about how long it takes to read an array: 100 bytes are as quick as one item of a list
    )
    remedy: str = "Change it in this function, by its name, or return the new value."


def of_sequence(value: Any) -> Holder:
    """A list or a deque, of a subclass too. Its own methods are not called: a user's may do anything."""
    kind = list if isinstance(value, list) else deque

    def put_back(parts: list[Any]) -> None:
        kind.clear(value)
        kind.extend(value, parts)

    return Holder(value, PLAIN, lambda: list(kind.__iter__(value)), put_back)


def of_set(value: set[Any]) -> Holder:
    def put_back(parts: list[Any]) -> None:
        set.clear(value)
        set.update(value, parts)

    return Holder(value, PLAIN, lambda: list(set.__iter__(value)), put_back)


def of_dict(value: dict[Any, Any]) -> Holder:
    # An OrderedDict keeps an order of its own, which the methods of `dict` do not see.
    kind = OrderedDict if isinstance(value, OrderedDict) else dict

    def put_back(parts: list[Any]) -> None:
        half = len(parts) // 2
        kind.clear(value)
        for key, item in zip(parts[:half], parts[half:], strict=True):
            kind.__setitem__(value, key, item)

    return Holder(value, PLAIN, lambda: [*kind.keys(value), *kind.values(value)], put_back)


def of_bytes(value: Any) -> Holder:
    """A bytearray, or an `array.array`."""

    def put_back(parts: list[Any]) -> None:
        value[:] = type(value)(
            *([value.typecode] if isinstance(value, array.array) else []), parts[0]
        )

    return Holder(value, PLAIN, lambda: [bytes(value)], put_back)


def of_array(value: np.ndarray) -> Holder:
    """A NumPy array that can be written."""
    if value.dtype.hasobject:

        def put_items_back(parts: list[Any]) -> None:
            for k, part in enumerate(parts):
                value.flat[k] = part

        return Holder(value, PLAIN, lambda: list(value.flat), put_items_back)

    def put_back(parts: list[Any]) -> None:
        np.copyto(value, np.frombuffer(parts[0], value.dtype).reshape(value.shape))

    return Holder(value, PLAIN, lambda: [value.tobytes()], put_back, value.nbytes // 100)


def of_attributes(value: Any, inside: dict[str, Any]) -> Holder:
    """The attributes of an object, which its `__dict__` holds."""
    # An object may compute an attribute at first use and keep it. Its class then has a descriptor of that
    # name (`cached_property`), and gives the same value whenever it is asked.
    kept = {key for key in inside if not _is_computed_once(type(value), key)}

    def names() -> list[str]:
        return [
            key for key in list(inside) if key in kept or not _is_computed_once(type(value), key)
        ]

    def parts() -> list[Any]:
        return [part for key in names() for part in (key, inside[key])]

    def put_back(parts: list[Any]) -> None:
        for key in names():
            del inside[key]
        inside.update(zip(parts[::2], parts[1::2], strict=True))

    return Holder(inside, "an attribute of `{}`", parts, put_back)


def _is_computed_once(kind: type, name: str) -> bool:
    found = next((vars(one)[name] for one in kind.__mro__ if name in vars(one)), None)
    cached = hasattr(type(found), "__get__") and not hasattr(type(found), "__set__")
    return cached and not isinstance(found, types.FunctionType)


def of_slots(value: Any, slots: list[Any]) -> Holder:
    """The attributes of an object that its class declares in `__slots__`."""

    def put_back(parts: list[Any]) -> None:
        for slot, part in zip(slots, parts, strict=True):
            if part is not _UNSET:
                slot.__set__(value, part)
            elif _slot(slot, value) is not _UNSET:
                slot.__delete__(value)

    return Holder(
        value, "an attribute of `{}`", lambda: [_slot(slot, value) for slot in slots], put_back
    )


def slots_of(kind: type) -> list[Any]:
    """The descriptors of a class's slots."""
    found = (one for base in kind.__mro__ for one in vars(base).values())
    return [one for one in found if isinstance(one, types.MemberDescriptorType)]


def _slot(slot: Any, value: Any) -> Any:
    try:
        return slot.__get__(value)
    except AttributeError:
        return _UNSET


def of_cell(cell: types.CellType, name: str, function: str) -> Holder:
    """A variable of a function that a function inside it uses."""

    def parts() -> list[Any]:
        try:
            return [cell.cell_contents]
        except ValueError:
            return [_UNSET]

    def put_back(parts: list[Any]) -> None:
        if parts[0] is _UNSET:
            del cell.cell_contents
        else:
            cell.cell_contents = parts[0]

    return Holder(cell, f"the variable `{name}` of {function}", parts, put_back)


def of_class(kind: type) -> Holder:
    """The attributes of a class."""

    def put_back(parts: list[Any]) -> None:
        before = dict(zip(parts[::2], parts[1::2], strict=True))
        for name in [name for name, _ in _public(kind) if name not in before]:
            type.__delattr__(kind, name)
        for name, value in before.items():
            type.__setattr__(kind, name, value)

    parts = lambda: [part for pair in _public(kind) for part in pair]
    return Holder(kind, f"an attribute of the class `{kind.__name__}`", parts, put_back)


def _public(kind: type) -> list[tuple[str, Any]]:
    """The attributes that the class body, and not Python, has made."""
    return [
        (k, v)
        for k, v in list(vars(kind).items())
        if not (k[:2] == k[-2:] == "__" or k == "_abc_impl")
    ]


def of_variable(space: dict[str, Any], name: str) -> Holder:
    """A variable of a module."""

    def put_back(parts: list[Any]) -> None:
        space[name] = parts[0]

    where = space.get("__name__", "its module")
    return Holder(
        space, f"the variable `{name}` of `{where}`", lambda: [space.get(name, _UNSET)], put_back
    )


def of_iterator(value: Any) -> Holder:
    """An iterator, a file included. How far it is can be compared, but not set back."""
    return Holder(value, "an iterator in `{}`", lambda: _position(value), None, remedy=_GO_OVER)


def _position(value: Any) -> list[Any]:
    if isinstance(value, types.GeneratorType):
        frame = value.gi_frame
        return [frame.f_lasti, *frame.f_locals.values()] if frame else []
    if isinstance(value, io.IOBase):
        return [None if value.closed else _asked(value.tell)]
    if type(value).__module__ == "itertools":
        # `count(3)` shows its position, and others tell it for `copy`, which later versions drop.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            told = _asked(value.__reduce__)
        return [*told[1:]] if isinstance(told, tuple) else [repr(value)]
    return [operator.length_hint(value, -1)]


def _asked(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except Exception:  # not every file has a position, and not every iterator can be copied
        return None


def inner_iterators(value: Any) -> list[Any]:
    """What an iterator goes over, such as the list in `zip(xs, ys)`."""
    return [
        part for part in gc.get_referents(value) if not isinstance(part, (type, types.FrameType))
    ]


def of_randomness(value: Any) -> Holder:
    """A random number generator with a state."""
    get, put = _state_of(value)
    return Holder(
        value,
        "the random generator in `{}`",
        lambda: [_written(get())],
        lambda parts: put(ast.literal_eval(parts[0])),
        remedy=_DRAW_BEFORE,
    )


def _written(state: Any) -> str:
    """The state of a generator, nested numbers, as text: one comparison tells whether it changed."""
    return repr(_with_lists(state))


def _with_lists(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _with_lists(part) for key, part in state.items()}
    # Generators take lists in place of their arrays.
    return state.tolist() if isinstance(state, (np.ndarray, np.generic)) else state


def _state_of(value: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    if isinstance(value, random.Random):
        return value.getstate, value.setstate
    if isinstance(value, np.random.RandomState):
        return lambda: value.get_state(legacy=False), value.set_state
    bits = value.bit_generator if isinstance(value, np.random.Generator) else value
    return lambda: bits.state, lambda state: setattr(bits, "state", state)


def global_randomness() -> list[Holder]:
    """The states behind `random.random()` and `np.random.normal()`."""
    np_get = lambda: [_written(np.random.get_state(legacy=False))]
    np_put = lambda parts: np.random.set_state(ast.literal_eval(parts[0]))
    own_get = lambda: [_written(random.getstate())]
    own_put = lambda parts: random.setstate(ast.literal_eval(parts[0]))
    return [
        Holder(random, "the state of `random`", own_get, own_put, remedy=_DRAW_BEFORE),
        Holder(np.random, "the state of `np.random`", np_get, np_put, remedy=_DRAW_BEFORE),
    ]


def is_iterator(value: Any) -> bool:
    """Whether `next(value)` may move it on."""
    return hasattr(type(value), "__next__") and isinstance(value, Iterator)
