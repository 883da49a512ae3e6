"""Lists and dicts that a block must leave alone: a trace would change them once, with tracers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from toolkit.control.python.errors import refuse


class Around(NamedTuple):
    """Every variable that a function can see, its own and those of the functions around it."""

    names: tuple[str, ...]
    reads: tuple[Callable[[], Any], ...]

    def remember(self) -> list[Seen]:
        """The containers that the variables hold now."""
        seen: dict[int, Seen] = {}
        for name, read in zip(self.names, self.reads, strict=True):
            try:
                value = read()
            except NameError:
                continue
            for container in _containers(value, set()):
                seen.setdefault(id(container), Seen(name, container, _items(container)))
        return list(seen.values())


class Seen(NamedTuple):
    """A container and what it held."""

    name: str
    container: Any
    items: list[Any]

    def check(self) -> None:
        """Put back what a trace has changed, and refuse it."""
        now = _items(self.container)
        if len(now) == len(self.items) and all(map(_is, now, self.items)):
            return
        self.container.clear()
        (
            self.container.update
            if isinstance(self.container, (dict, set))
            else self.container.extend
        )(self.items)
        raise refuse(
            f"`{self.name}` is changed, inside a staged loop or condition, by a function that is "
            "called there: it would change once, at trace time. Change it in this function, by name, "
            "or return the new value."
        )


def _is(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, tuple) and len(a) == 2 and a[0] is b[0] and a[1] is b[1])


def _items(container: Any) -> list[Any]:
    return list(container.items() if isinstance(container, dict) else container)


def _containers(value: Any, met: set[int]) -> Iterator[Any]:
    if id(value) in met or not isinstance(value, (list, dict, tuple, set, deque)):
        return
    met.add(id(value))
    if not isinstance(value, tuple):
        yield value
    for child in value.values() if isinstance(value, dict) else value:
        yield from _containers(child, met)
