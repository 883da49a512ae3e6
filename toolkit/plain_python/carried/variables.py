"""The variables that a block may change: how to read them and how to write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from toolkit.plain_python.carried.surroundings import NOTHING, Surroundings
from toolkit.plain_python.carried.undefined import Undefined


class Variables(NamedTuple):
    """The variables that a block may change."""

    reads: tuple[Callable[[], Any], ...]  # one function a variable, which returns its value
    write: Callable[..., None]  # sets all of them
    names: tuple[str, ...]
    grown: tuple[str, ...]  # lists that the block appends to
    # Variables that the block only hands on, to a call or another name. They count as constant, unless
    # the trace shows that a list or dict among them was changed in place.
    watched: tuple[str, ...] = ()
    around: Surroundings = NOTHING
    # Variables that the function changes in place somewhere. Only for these does it matter whether two
    # names hold the same list or two equal ones.
    mutated: tuple[str, ...] = ()

    def order(self) -> list[int]:
        """The order in which variables are encoded and decoded: those changed in place come first.

        The first name of a list that is met becomes its owner, and other names refer to it.
        """
        return sorted(range(len(self.names)), key=lambda k: self.names[k] not in self.mutated)

    def changing(self, names: Iterable[str]) -> Variables:
        """The same variables, where `names` are no longer watched but taken to change in place."""
        left = tuple(name for name in self.watched if name not in names)
        return self._replace(watched=left, mutated=(*self.mutated, *names))

    def cells(self) -> set[int]:
        """The ids of the cells that hold the function's own variables, those of this block and others."""
        reads = (*self.reads, *self.around.reads)
        return {id(cell) for read in reads for cell in getattr(read, "__closure__", None) or ()}

    def values(self) -> list[Any]:
        """What they are now."""
        return [_value(read, name) for read, name in zip(self.reads, self.names, strict=True)]


def _value(read: Callable[[], Any], name: str) -> Any:
    try:
        return read()
    except NameError:
        return Undefined(name)
