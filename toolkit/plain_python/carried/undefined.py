"""Variables without a value, and the error of reading one.

After `if traced: y = 1` the variable `y` may have a value or not. It then holds an `Undefined` that
says why, and rewritten code that reads `y` gets an error with that reason.
"""

from __future__ import annotations

from toolkit.plain_python.refusals import here
from toolkit.plain_python.reserved import RESULT


class Undefined:
    """Stands in a variable that has no value, or may have none.

    `reason` is None for a variable that was simply never assigned; Python's own message says that.
    """

    def __init__(self, name: str, reason: str | None = None) -> None:
        self.name = name
        self.reason = reason

    def __repr__(self) -> str:
        return f"<{self.name} is not defined>"


class UndefinedRead(UnboundLocalError):
    """A variable without a value was read; `undefined` is the mark that it held."""

    def __init__(self, message: str, undefined: Undefined) -> None:
        super().__init__(message)
        self.undefined = undefined

    @classmethod
    def of(cls, undefined: Undefined, name: str) -> UndefinedRead:
        """The error of reading the variable `name` at the user's current line."""
        reason = undefined.reason
        if reason is None:
            said = f"cannot access local variable '{name}' where it is not associated with a value"
        else:
            words = "the returned value" if name == RESULT else name
            shown = words if " " in words else f"variable '{name}'"
            # The reasons that say "assigned" tell that no value may have been given; the others, that
            # two branches give different ones.
            why = (
                "may be used before assignment"
                if "assigned" in reason
                else "has no single value here"
            )
            said = f"{shown} {why}: {reason}."
        return cls(here().said(said), undefined)
