"""Where the user wants a run, a page or a table to go."""

from __future__ import annotations

import os
from pathlib import Path

from toolkit.run.experiment.errors import Exit, fail, shown

LONGEST = 255  # bytes of a name, on nearly every file system


def out(text: str) -> Path:
    """Where `--out` leads. Raises: RunError (exit 2) for a name that cannot be one.

    `~` is the home folder. A shell writes that out in `--out ~/x`, and leaves it in `--out=~/x`.
    """
    if not text:
        raise fail(Exit.CONFIG, "--out", "empty", shown(text), "a path")
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # no such user, or no home folder is known
        expected = "a home folder that is known, or ./~ for a folder of that name"
        raise fail(Exit.CONFIG, "--out", "no home folder", shown(text), expected) from None
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > LONGEST:
        got, expected = f"a name of {longest} bytes", f"at most {LONGEST}"
        raise fail(Exit.CONFIG, "--out", "name too long", got, expected)
    return path
