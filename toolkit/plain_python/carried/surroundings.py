"""Finds what a block changes in place without saying so: lists, dicts, objects and NumPy arrays.

    for i in range(n):
        log(i)              # appends to a list that `log` knows

While tracing, `log` would run once, and the list would get one tracer in place of `n` numbers. So
what the function can see is remembered before a trace and compared after it. A difference is undone
and refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from toolkit.plain_python.refusals import refuse

# Both limits keep a trace fast: what is larger is not remembered, and a change of it is not found.
_LARGE = 100_000  # entries of a NumPy array
_MOST = 20_000  # entries of all lists, dicts and objects together
_OPAQUE = (FunctionType, MethodType, ModuleType, type, jax.Array, np.generic)


class Surroundings(NamedTuple):
    """Every variable that a function can see: its own, and those of the functions around it."""

    names: tuple[str, ...]
    reads: tuple[Callable[[], Any], ...]

    def remember(self) -> list[Remembered]:
        """What the variables hold now and what can change in place, with its present items."""
        seen: dict[int, Remembered] = {}
        left = _MOST
        for name, read in zip(self.names, self.reads, strict=True):
            try:
                value = read()
            except NameError:
                continue
            for container, attributes in _containers(value, set(), 2):
                left -= 0 if isinstance(container, np.ndarray) else len(container)
                if left < 0:
                    return list(seen.values())
                seen.setdefault(
                    id(container), Remembered(name, container, _items(container), attributes)
                )
        return list(seen.values())


class Remembered(NamedTuple):
    """Something that can change in place, and the items that it held before a trace."""

    name: str
    container: Any
    items: list[Any]
    attributes: bool  # whether it is the `__dict__` of an object

    def is_plain(self) -> bool:
        """Whether it is a list or a dict that a variable may hold."""
        return isinstance(self.container, (list, dict)) and not self.attributes

    def check(self) -> None:
        """If the trace has changed it, undo the change and refuse it."""
        now = _items(self.container)
        if self.attributes and len(now) > len(self.items):
            # An object may compute an attribute at first use and keep it (`cached_property`). A new
            # attribute is therefore no change, unless it holds a tracer.
            known = {key for key, _ in self.items}
            now = [pair for pair in now if pair[0] in known or isinstance(pair[1], jax.core.Tracer)]
        if len(now) == len(self.items) and all(map(_is, now, self.items)):
            return
        _put_back(self.container, self.items)
        raise refuse(
            f"`{self.name}` is changed in place, inside a staged loop or condition, by what is called "
            "there or through another name: it would change once, at trace time. Change it in this "
            "function, by its name, or return the new value."
        )


def _put_back(container: Any, items: list[Any]) -> None:
    if isinstance(container, np.ndarray):
        container[...] = np.asarray(items).reshape(container.shape)
        return
    container.clear()
    (container.update if isinstance(container, (dict, set)) else container.extend)(items)


def _is(a: Any, b: Any) -> bool:
    # The items of a dict are pairs made anew for each call, so their parts are compared.
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) == 2:
        return a[0] is b[0] and a[1] is b[1]
    # An array's numbers are made anew too. `==` would take NaN for changed and -0.0 for 0.0.
    return a is b or (isinstance(a, (int, float, complex)) and repr(a) == repr(b))


def _items(container: Any) -> list[Any]:
    if isinstance(container, np.ndarray):
        return container.ravel().tolist()
    return list(container.items() if isinstance(container, dict) else container)


def _containers(value: Any, met: set[int], depth: int) -> Iterator[tuple[Any, bool]]:
    """What can change in place inside `value`, each with whether it is the `__dict__` of an object.

    `met`: ids of what was visited, since objects may refer to each other; `depth`: how many objects
    deep to look.
    """
    if id(value) in met or isinstance(value, _OPAQUE):
        return
    met.add(id(value))
    if isinstance(value, np.ndarray):
        if value.flags.writeable and value.size <= _LARGE and value.dtype.kind in "biufc":
            yield value, False
        return
    if isinstance(value, (list, dict, set, deque)):
        yield value, False
    if isinstance(value, (list, dict, tuple, set, deque)):
        if len(value) <= _MOST:
            for child in value.values() if isinstance(value, dict) else value:
                yield from _containers(child, met, depth)
        return
    inside = getattr(value, "__dict__", None)
    if depth and type(inside) is dict:
        yield inside, True
        for child in inside.values():
            yield from _containers(child, met, depth - 1)
