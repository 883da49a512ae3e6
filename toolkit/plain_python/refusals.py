"""Refusals that name the user's file, line and variable."""

from __future__ import annotations

import linecache
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import NamedTuple

from toolkit.errors.frames import JAX, WRAPPERS, rooms

# A `for` of the user runs inside `tk.loop`, so frames of `control` are not the user's either.
OURS = rooms("plain_python", "control")
_SKIPPED = (*OURS, JAX, *WRAPPERS)


class ControlFlowError(TypeError):
    """Code that `@control_flow` cannot run as Python means it; the message says what to write."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        made = _made.get()
        if made is not None:
            made.append(self)


# A user's `except Exception:` around a staged block could catch a refusal, and the function would go on
# with a wrong value. So each refusal is noted while a converted function runs, and raised at its end.
_made: ContextVar[list[ControlFlowError] | None] = ContextVar("refusals", default=None)


@contextmanager
def nothing_swallowed() -> Iterator[None]:
    """Raise again, at the end of the outermost converted call, a refusal that the user's code caught."""
    if _made.get() is not None:
        yield
        return
    made: list[ControlFlowError] = []
    token = _made.set(made)
    try:
        yield
    finally:
        _made.reset(token)
    if made:
        raise made[0]


def user_frame() -> FrameType:
    """The innermost frame that is neither ours nor JAX's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_SKIPPED):
        frame = frame.f_back
    return frame or sys._getframe(1)


class UserLine(NamedTuple):
    """A line of the user's code."""

    filename: str
    line: int
    function: str

    def refuse(self, message: str) -> ControlFlowError:
        """The error to raise for the code at this line."""
        return ControlFlowError(self.said(message))

    def said(self, message: str) -> str:
        """`message` after the file, the line and the code, in the form of a Python traceback."""
        source = linecache.getline(self.filename, self.line).strip()
        shown = f"\n    {source}" if source else ""
        return f'File "{self.filename}", line {self.line}, in {self.function}{shown}\n{message}'


def here() -> UserLine:
    """The user's current line."""
    frame = user_frame()
    return UserLine(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def place_of(error: BaseException) -> tuple[UserLine, str]:
    """The last line of the user's code that an error passed, and the expression there."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_SKIPPED)
    ]
    if not frames:
        return here(), ""
    last = frames[-1]
    source = linecache.getline(last.filename, last.lineno or 0)
    # Generated code is marked as one column wide (see `rewriting.nodes.at`). Only a wider range is an
    # expression that the user wrote and that a message can quote.
    wide = last.colno is not None and (last.end_colno or 0) > last.colno + 1
    one_line = last.lineno == last.end_lineno and wide
    # Columns count bytes, not characters, so a line with other letters than ASCII is cut as bytes.
    shown = source.encode()[last.colno : last.end_colno].decode() if one_line else ""
    return UserLine(last.filename, last.lineno or 0, last.name), shown


def refuse(message: str) -> ControlFlowError:
    """The error to raise at the user's current line."""
    return here().refuse(message)


def note_that_it_left(error: Exception) -> None:
    """Note that an exception leaves a staged block, so that it must not be caught outside.

    Python would raise it in one iteration or one branch, and keep what was assigned before. If it is
    caught outside, the function ends in a refusal (see `nothing_swallowed`).
    """
    refuse(
        f"{type(error).__name__} leaves a staged loop or condition, and was caught outside: it is raised "
        "while the code is traced, whatever the data. Catch it inside the block, or return a status."
    )
