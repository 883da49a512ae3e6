"""The variables that a block may change: how to read them and how to write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from toolkit.plain_python.carried.surroundings import Surroundings
from toolkit.plain_python.carried.undefined import Undefined


class Variables(NamedTuple):
    """The variables that a block may change."""

    reads: tuple[Callable[[], Any], ...]
    write: Callable[..., None]
    names: tuple[str, ...]
    grown: tuple[str, ...]  # those that it appends to
    # The last ones are only handed on: a list or dict among them may be changed by what is called.
    watched: tuple[str, ...] = ()
    around: Surroundings = Surroundings((), ())
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
