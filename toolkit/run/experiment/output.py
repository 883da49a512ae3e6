"""Lines for a person. A run goes on if nobody reads them, or if the disk of its log is full."""

from __future__ import annotations

import contextlib
import os
import sys
from io import TextIOWrapper
from typing import TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints a line on stdout, or on `stream`; once that fails, no more is printed there."""
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        mute(stream)


def warn(text: str) -> None:
    say(f"warning: {text}", sys.stderr)


def forgive(stream: TextIO | None) -> None:
    """Characters that the terminal's encoding lacks are written as escapes, instead of ending the command."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def flush(stream: TextIO | None) -> None:
    """Sends out what is buffered. Raises: OSError where that fails, unless nobody reads any more."""
    if stream is None:
        return
    try:
        stream.flush()
    except BrokenPipeError:
        mute(stream)
    except OSError:
        mute(stream)
        raise


def mute(stream: TextIO) -> None:
    """Sends what is buffered in a stream, and all that follows, to /dev/null.

    Otherwise Python would flush the buffer when it exits, and fail on it once more.
    """
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
