"""Failures as data: one line each, and the exit code that a caller can rely on."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, NamedTuple

MESSAGE_LIMIT = 2000  # bytes of one whole message; a config cannot flood a log
VALUE_LIMIT = 80  # characters of one quoted value


class Exit(IntEnum):
    """The exit codes of the process; part of the public contract."""

    DONE = 0
    BUG = 1  # an exception that toolkit did not expect
    CONFIG = 2  # a mistake in the command, the config or the experiment's code
    CHECKPOINT = 3  # a file of the run is damaged, or changed since it was written
    OCCUPIED = 4  # the directory is in use, finished, or holds something else
    STORAGE = 5  # the disk is full or refuses to write
    NOT_FINITE = 6  # a NaN or an infinity in the state or the metrics
    ENVIRONMENT = 7  # versions, flags or code differ from those of the run, or jax computes wrongly
    CLAIM = 8  # the run is finished and misses a claim


class Complaint(NamedTuple):
    """One thing that is wrong. Reads as `where: what, got ..., expected ... (did you mean ...?)`."""

    where: str
    what: str
    got: str = "nothing"
    expected: str = ""
    near: str | None = None

    def line(self) -> str:
        expected = f", expected {self.expected}" if self.expected else ""
        near = f" (did you mean `{self.near}`?)" if self.near else ""
        return printable(f"{self.where}: {self.what}, got {self.got}{expected}{near}")


class RunError(Exception):
    """A failure of a run. Its text is what the command line prints.

    Args:
      code: the exit code of the command.
      problems: what is wrong, in the order to print it.
    """

    def __init__(self, code: Exit, *problems: Complaint):
        super().__init__(code, *problems)
        self.code = code
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.lines())

    @property
    def reason(self) -> str:
        """The problems on one line, without the word `error`, for use within another message."""
        return "; ".join(problem.line() for problem in self.problems)

    def lines(self) -> list[str]:
        """The lines to print: one a problem, all of them together within `MESSAGE_LIMIT` bytes."""
        lines: list[str] = []
        room = MESSAGE_LIMIT - 60  # what the closing line may need
        for done, problem in enumerate(self.problems):
            # The first line is cut to fit, so that there is always one. Later ones are whole or only counted.
            line = clip(f"error: {problem.line()}", room if not lines else MESSAGE_LIMIT)
            room -= len(line.encode()) + 1
            if room < 0:
                return [*lines, f"error: and {len(self.problems) - done} more problems"]
            lines.append(line)
        return lines


def fail(
    code: Exit,
    where: object,
    what: str,
    got: str = "nothing",
    expected: str = "",
    near: str | None = None,
) -> RunError:
    """The error of a single problem; written `raise fail(...)`."""
    return RunError(code, Complaint(str(where), what, got, expected, near))


def refused_by_system(error: OSError, where: str) -> RunError:
    """What the operating system refused (exit 5), where no place closer to it has explained that."""
    place = error.filename if isinstance(error.filename, str) else where
    got = error.strerror or str(error)
    return fail(Exit.STORAGE, place, "refused", got, "access and room")


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that `name` is most likely a misspelling of, or None."""
    # difflib's time grows with the square of the length: a name of a megabyte would keep it busy for minutes.
    matches = difflib.get_close_matches(str(name)[:VALUE_LIMIT], list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def shown(value: Any) -> str:
    """A value of a config as one short line: `1e-3` as 0.001, text in quotes, long ones cut."""
    if value is None:
        return "null"
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        text = repr(value)
    return printable(text if len(text) <= VALUE_LIMIT else text[: VALUE_LIMIT - 1] + "…")


def printable(text: str) -> str:
    """`text` on one line, control characters escaped, so that a value cannot forge a line of a log."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def clip(text: str, limit: int) -> str:
    """`text` cut to at most `limit` bytes of UTF-8."""
    data = text.encode()
    return text if len(data) <= limit else data[: max(limit - 3, 0)].decode(errors="ignore") + "…"
