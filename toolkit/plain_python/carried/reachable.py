"""Everything that can change in place and that some code can get at.

A function gets at its variables, and at what these hold: the items of a list, the attributes of an
object, the variables of the functions around a function. A function that it calls gets at the
variables of its module, at the classes of its objects, and so on.
"""

from __future__ import annotations

import array
import functools
import io
import random
import sys
import types
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from toolkit.errors.frames import is_installed, is_jax, is_ours
from toolkit.plain_python.carried import holders
from toolkit.plain_python.carried.holders import Holder
from toolkit.plain_python.reserved import PREFIX

_ATOMS = frozenset((
    type(None), bool, int, float, complex, str, bytes, range, slice, types.CodeType, type(...), np.dtype,
))  # fmt: skip
_RANDOM = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator)
# What objects of these packages change for themselves, such as a cache, is no concern of the user's.
_OPAQUE = frozenset(("jax", "jaxlib", "toolkit", "numpy", "logging", "threading", "weakref"))
# Parts of a list, a dict, ... that are looked at; the parts of what is larger are not.
_MOST_PARTS = 20_000


class Changeable(NamedTuple):
    """Something that can change in place, and by which variable it was found."""

    name: str
    holder: Holder


@dataclass(frozen=True)
class Namespace:
    """Variables of a module, and the names among them that some code uses."""

    space: dict[str, Any]
    names: frozenset[str]


class Visible(NamedTuple):
    """A value that the code can see, and the name that it has there."""

    name: str
    value: Any
    names: frozenset[str] = frozenset()  # for a module: the attributes that the code names


def reachable(sources: Iterable[Visible]) -> Iterator[Changeable]:
    """What can change in place and can be got at from these values; what is near comes first."""
    met: set[Any] = set()
    waiting = deque(sources)
    while waiting:
        name, value, names = waiting.popleft()
        if type(value) in _ATOMS or isinstance(value, (jax.Array, np.generic)):
            continue
        if isinstance(value, Namespace):
            # Several functions see one module, each with names of its own.
            for one in value.names:
                key = (id(value.space), one)
                if one in value.space and key not in met:
                    met.add(key)
                    yield Changeable(one, holders.of_variable(value.space, one))
                    waiting.append(Visible(one, value.space[one], value.names))
            continue
        if isinstance(value, types.ModuleType):
            if _is_users(value.__name__, value):
                waiting.append(Visible(name, Namespace(vars(value), names)))
            continue
        if id(value) in met:
            continue
        met.add(id(value))
        try:
            found, children = _look(value)
        except Exception:  # an object of the user's may raise at any question
            continue
        for holder in found:
            # The variable of a function has an id of its own: two functions may share it.
            if holder.owner is value or id(holder.owner) not in met:
                met.add(id(holder.owner))
                yield Changeable(name, holder)
        waiting.extend(
            child if isinstance(child, Visible) else Visible(name, child) for child in children
        )


def _look(value: Any) -> tuple[list[Holder], Iterable[Any]]:
    """What of `value` can change in place, and the values inside it."""
    if isinstance(value, (list, deque)):
        return _with_attributes(value, [holders.of_sequence(value)])
    if isinstance(value, dict):
        return _with_attributes(value, [holders.of_dict(value)])
    if isinstance(value, set):
        return _with_attributes(value, [holders.of_set(value)])
    if isinstance(value, (tuple, frozenset)):
        kind = tuple if isinstance(value, tuple) else frozenset
        parts = list(kind.__iter__(value))  # type: ignore[arg-type]
        return _with_attributes(value, [], parts if len(parts) <= _MOST_PARTS else ())
    if isinstance(value, np.ndarray):
        few = list(value.flat) if value.dtype.hasobject and value.size <= _MOST_PARTS else []
        return ([holders.of_array(value)] if value.flags.writeable else []), few
    if isinstance(value, (bytearray, array.array)):
        return [holders.of_bytes(value)], ()
    if isinstance(value, types.FunctionType):
        return _of_function(value)
    if isinstance(value, (types.MethodType, types.BuiltinMethodType, types.MethodWrapperType)):
        return [], [value.__self__, getattr(value, "__func__", None)]
    if isinstance(value, functools.partial):
        return [], [value.func, value.args, value.keywords]
    if isinstance(value, property):
        return [], [value.fget, value.fset]
    if isinstance(value, (staticmethod, classmethod)):
        return [], [value.__func__]
    if isinstance(value, type):
        return _of_class(value)
    if isinstance(value, _RANDOM):
        return [holders.of_randomness(value)], ()
    return _of_object(value)


def _of_object(value: Any) -> tuple[list[Holder], Iterable[Any]]:
    kind = type(value)
    package = str(kind.__module__).partition(".")[0]
    if package in _OPAQUE:
        return [], [getattr(value, "__wrapped__", None)]  # of a `jax.jit`: the user's function
    if holders.is_iterator(value) and package in ("builtins", "itertools", "collections", "_io"):
        return [holders.of_iterator(value)], holders.inner_iterators(value)
    if isinstance(value, io.IOBase):
        return [holders.of_iterator(value)], ()
    return _with_attributes(value, [], [kind])


def _with_attributes(
    value: Any, found: list[Holder], inside: Iterable[Any] = ()
) -> tuple[list[Holder], Iterable[Any]]:
    """`found`, what it holds and `inside`, with the attributes of `value`."""
    children = [*inside]
    for holder in found:
        parts = holder.parts()
        children += parts if len(parts) <= _MOST_PARTS else ()
    attributes = _dict_of(value)
    if attributes is not None:
        found.append(holders.of_attributes(value, attributes))
        children += attributes.values()
    kind: Any = type(value)
    if slots := _slots(kind):
        slotted = holders.of_slots(value, slots)
        found.append(slotted)
        children += slotted.parts()
    return found, children


def _dict_of(value: Any) -> dict[str, Any] | None:
    try:
        found = getattr(value, "__dict__", None)
    except Exception:  # a proxy may raise anything
        return None
    return found if type(found) is dict else None


@functools.cache
def _slots(kind: Any) -> list[Any]:
    return [] if kind.__module__ == "builtins" else holders.slots_of(kind)


def _of_function(function: types.FunctionType) -> tuple[list[Holder], Iterable[Any]]:
    code, file = function.__code__, function.__code__.co_filename
    if is_ours(file) or is_jax(file):
        # A wrapper such as that of `jax.grad` or of this decorator: the function in it is the user's.
        cells = [_contents(cell) for cell in function.__closure__ or ()]
        return [], [
            one for one in (*cells, function.__dict__) if callable(one) or type(one) is dict
        ]
    found: list[Holder] = []
    children: list[Any] = [function.__defaults__, function.__kwdefaults__]
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        if name.startswith(PREFIX):
            continue  # a variable that the rewriting has made
        if not is_installed(file):
            found.append(holders.of_cell(cell, name, f"`{function.__name__}`"))
        children.append(Visible(name, _contents(cell), names_in(code)))
    found.append(holders.of_dict(function.__dict__))
    children += function.__dict__.values()
    if not is_installed(file):
        children.append(Namespace(function.__globals__, names_in(code)))
    return found, children


def holds_tracer(value: Any, own: Collection[int] = ()) -> bool:
    """Whether an object that JAX cannot see into holds a traced value.

    Args:
      own: ids of the cells of the converted function's own variables, which functions inside it see.
    """
    met: set[int] = set()
    waiting = deque([value])
    while waiting and len(met) < _MOST_PARTS:
        value = waiting.popleft()
        if isinstance(value, jax.core.Tracer):
            return True
        passed = type(value) in _ATOMS or isinstance(value, (types.ModuleType, Namespace, type))
        if passed or id(value) in met:
            continue
        met.add(id(value))
        if isinstance(value, types.FunctionType):
            cells = [cell for cell in value.__closure__ or () if id(cell) not in own]
            waiting.extend(map(_contents, cells))
            waiting.extend([value.__defaults__, value.__kwdefaults__, value.__dict__])
        else:
            _, children = _look(value)
            waiting.extend(
                child.value if isinstance(child, Visible) else child for child in children
            )
    return False


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # the variable has no value yet


def _is_users(name: str, module: Any) -> bool:
    """Whether a module is the user's; one without a file is, unless it is built into Python."""
    file = getattr(module, "__file__", None)
    return not is_installed(file) if file else name not in sys.builtin_module_names


def _of_class(kind: type) -> tuple[list[Holder], Iterable[Any]]:
    made_by_python = kind.__flags__ & 1 << 9  # on the heap: no class of an extension's is
    if not made_by_python or not _is_users(kind.__module__, sys.modules.get(kind.__module__)):
        return [], ()
    return [holders.of_class(kind)], [*vars(kind).values(), *kind.__bases__]


@functools.lru_cache(maxsize=1024)
def names_in(code: types.CodeType) -> frozenset[str]:
    """The global variables and the attributes that a function's code names, inner functions included."""
    inside = [names_in(one) for one in code.co_consts if isinstance(one, types.CodeType)]
    return frozenset(code.co_names).union(*inside)
