"""Finds what a block changes in place without saying so.

    for i in range(n):
        log(i)              # appends to a list that `log` knows

While tracing, `log` would run once, and the list would get one tracer in place of `n` numbers. So
what the function can get at is remembered before a trace and compared after it. A difference is
undone and refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import jax

from toolkit.plain_python import mode
from toolkit.plain_python.carried.holders import PLAIN, Holder, global_randomness
from toolkit.plain_python.carried.reachable import Changeable, Namespace, Visible, reachable
from toolkit.plain_python.refusals import ControlFlowError, refuse

# Limits that keep a trace fast: what lies beyond them is not remembered, and a change of it is not found.
# A block inside a block needs less, because what it changes is found at the end of the outer one too.
_MOST, _MOST_INSIDE = 500_000, 20_000
_NUMBERS = (int, float, complex, bool)


class Surroundings(NamedTuple):
    """Every variable that a function can see: its own, those around it, and those of its module."""

    names: tuple[str, ...]
    reads: tuple[Callable[[], Any], ...]
    # The global variables and attributes that its code names, and a function with its globals.
    named: tuple[str, ...] = ()
    home: Callable[[], Any] | None = None

    def remember(self, written: Collection[Any] = ()) -> list[Remembered]:
        """What can change in place, with what it holds now.

        Args:
          written: functions whose variables the block itself may assign.
        """
        if not mode.is_staged():
            # A callback of an earlier program may still be running, and what it changes is not the trace's.
            jax.effects_barrier()
        own = {id(cell) for read in written for cell in getattr(read, "__closure__", None) or ()}
        left = _MOST_INSIDE if mode.is_staged() else _MOST
        remembered = []
        for name, holder in self._found():
            if id(holder.owner) in own:
                continue
            bulk = holder.bulk
            before = holder.parts() if bulk <= left // 2 else []
            size = 1 + bulk + len(before)
            if size > left // 2:
                continue  # what is large must not hide what comes after it
            left -= size
            if left < 100:
                break
            remembered.append(Remembered(name, holder, before))
        return remembered

    def _found(self) -> Iterator[Changeable]:
        yield from (Changeable("", holder) for holder in global_randomness())
        names, sources = frozenset(self.named), []
        for name, read in zip(self.names, self.reads, strict=True):
            try:
                sources.append(Visible(name, read(), names))
            except NameError:
                continue
        # A function that the code calls may assign a variable that the block does not write.
        sources += [Visible(name, read) for name, read in zip(self.names, self.reads, strict=True)]
        if self.home is not None:
            sources.append(Visible("", Namespace(self.home.__globals__, names)))
        yield from reachable(sources)


def within(
    around: Surroundings, names: tuple[str, ...], reads: tuple[Callable[[], Any], ...]
) -> Surroundings:
    """What a lambda in a function can see: its parameters too."""
    return around._replace(names=(*around.names, *names), reads=(*around.reads, *reads))


NOTHING = Surroundings((), ())


class Remembered(NamedTuple):
    """Something that can change in place, and what it held before a trace."""

    name: str
    holder: Holder
    before: list[Any]

    def is_plain(self) -> bool:
        """Whether it is a list or a dict that a variable may hold."""
        return isinstance(self.holder.owner, (list, dict)) and self.holder.what == PLAIN

    def refused(self) -> ControlFlowError:
        """The error of changing it."""
        what = self.holder.what.format(self.name)
        return refuse(
            f"{what} is changed in place, inside a staged loop or condition, by what is called "
            f"there or through another name: it would change once, at trace time. {self.holder.remedy}"
        )

    def undo(self) -> bool:
        """Put back what the trace has changed; whether it has changed anything."""
        now = self.holder.parts()
        if len(now) == len(self.before) and all(map(_same, now, self.before)):
            return False
        if self.holder.put_back is not None:
            self.holder.put_back(self.before)
        return True


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, (str, bytes)):
        return bool(a == b)
    # Numbers are made anew. `==` would take NaN for changed and -0.0 for 0.0.
    return isinstance(a, _NUMBERS) and repr(a) == repr(b)
