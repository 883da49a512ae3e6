"""Words that several commands take."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path

from toolkit.run.experiment.errors import Exit, fail, shown

LONGEST = 255  # bytes of a name, on nearly every file system


def add_config(parser: ArgumentParser) -> None:
    """A config and what to change in it."""
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="e.g. steps=100 adjoint.kind=unroll"
    )


def add_run_directory(parser: ArgumentParser) -> None:
    """A run that exists."""
    parser.add_argument("directory", type=Path, metavar="RUN_DIR")


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
