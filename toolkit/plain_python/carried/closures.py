"""Functions made in a block as structure and values: `g = make(x)`, where `make` returns a lambda of `x`.

Such a function holds `x` in a cell of its closure, or in a default. In a loop `x` is a value of one
iteration, which is invalid after it. So the function is taken apart into its code, which stays the
same, and these values, which the loop can carry.
"""

from __future__ import annotations

import dis
from collections.abc import Collection
from types import CellType, CodeType, FunctionType
from typing import Any

from toolkit.errors.frames import is_installed


class ClosureKind:
    """What of a function stays the same while the values that it holds change."""

    def __init__(self, function: FunctionType, own: Collection[int]) -> None:
        self.function, self.own = function, own
        cells = function.__closure__ or ()
        # A variable of the converted function itself is no value of one iteration: the function sees
        # whatever it holds when it is called.
        self.held = tuple(k for k, cell in enumerate(cells) if id(cell) not in own)
        self.keywords = tuple(function.__kwdefaults__ or ())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClosureKind):
            return False
        a, b = self.function, other.function
        return a.__code__ is b.__code__ and self._fixed() == other._fixed()

    def __hash__(self) -> int:
        return hash(self.function.__code__)

    def _fixed(self) -> tuple[Any, ...]:
        cells = self.function.__closure__ or ()
        shared = tuple(id(cell) for k, cell in enumerate(cells) if k not in self.held)
        return shared, self.held, self.keywords, len(self.function.__defaults__ or ())

    def values(self) -> list[Any]:
        """The values that the function holds."""
        function = self.function
        cells = function.__closure__ or ()
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        return [*(cells[k].cell_contents for k in self.held), *defaults]

    def is_complete(self) -> bool:
        """Whether every variable that the function uses has a value."""
        try:
            self.values()
        except ValueError:
            return False
        return True

    def with_values(self, values: list[Any]) -> FunctionType:
        """The same function with other values."""
        function = self.function
        cells = list(function.__closure__ or ())
        for k, value in zip(self.held, values, strict=False):
            cells[k] = CellType(value)
        count, more = len(self.held), len(function.__defaults__ or ())
        defaults = tuple(values[count : count + more]) or None
        made = FunctionType(
            function.__code__, function.__globals__, function.__name__, defaults, tuple(cells)
        )
        made.__kwdefaults__ = dict(zip(self.keywords, values[count + more :], strict=True)) or None
        made.__qualname__, made.__doc__ = function.__qualname__, function.__doc__
        made.__dict__.update(function.__dict__)
        return made


def closure_of(value: Any, own: Collection[int]) -> ClosureKind | None:
    """A function of the user's that holds values; None for anything else.

    Args:
      own: ids of the cells of the converted function's own variables.
    """
    if not isinstance(value, FunctionType) or is_installed(value.__code__.co_filename):
        return None
    kind = ClosureKind(value, own)
    held = {value.__code__.co_freevars[k] for k in kind.held}
    # Another function may share a variable that this one assigns. A copy would assign a variable of its own.
    if held & _assigned(value.__code__) or not kind.is_complete():
        return None
    return kind


def _assigned(code: CodeType) -> set[str]:
    """The variables of functions around it that a function, or one inside it, assigns."""
    here = {
        one.argval
        for one in dis.get_instructions(code)
        if one.opname in ("STORE_DEREF", "DELETE_DEREF")
    }
    inside = (_assigned(one) for one in code.co_consts if isinstance(one, CodeType))
    return here.union(*inside)
