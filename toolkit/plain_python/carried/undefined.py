"""Variables without a value, and the error of reading one."""

from __future__ import annotations

from toolkit.plain_python.errors import here
from toolkit.plain_python.reserved import RESULT


class Undefined:
    """The value of a variable that has none, or may have none; reading it says why."""

    def __init__(self, name: str, reason: str | None = None) -> None:
        self.name = name
        self.reason = reason

    def __repr__(self) -> str:
        return f"<{self.name} is not defined>"


class UndefinedRead(UnboundLocalError):
    """A variable without a value was read; `undefined` is what stood in its place."""

    def __init__(self, message: str, undefined: Undefined) -> None:
        super().__init__(message)
        self.undefined = undefined

    @classmethod
    def of(cls, undefined: Undefined, name: str) -> UndefinedRead:
        """The error of reading it where the user's code stands now."""
        reason = undefined.reason
        if reason is None:
            said = f"cannot access local variable '{name}' where it is not associated with a value"
        else:
            shown = "the returned value" if name == RESULT else f"variable '{name}'"
            why = (
                "may be used before assignment" if "assigned" in reason else "has no one value here"
            )
            said = f"{shown} {why}: {reason}."
        return cls(here().said(said), undefined)
