"""The line of the user's code that an equation comes from."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from toolkit import tree
from toolkit.errors.frames import is_installed, is_jax, module_of, rooms, shown
from toolkit.jaxprs.recorded_lines import frames

# JAX records all calls that led to an equation, also those by which this room has traced the program. From
# the first frame of this room outwards they show who asked for the report, and are no part of the program.
ASKED = rooms("debug")


class SourceLine(NamedTuple):
    """A line of source."""

    file: str | None
    line: int | None

    @property
    def source(self) -> str:
        """The text of the line, without its indentation; "" where it is not known."""
        if not self.file:
            return ""
        linecache.checkcache(self.file)  # a notebook's process goes on while its files change
        return linecache.getline(self.file, self.line or 0).strip()

    def __str__(self) -> str:
        if self.file is None:
            return "an unknown line"
        path = Path(self.file)
        inside = path.is_absolute() and path.is_relative_to(Path.cwd())
        return f"{path.relative_to(Path.cwd()) if inside else path}:{self.line}"


NOWHERE = SourceLine(None, None)


class Origin(NamedTuple):
    """Where an equation comes from."""

    place: SourceLine  # the innermost line outside installed packages, else inside them
    ours: str  # the module of this package that the equation stands in, or ""
    known: bool  # whether it has a line of its own


def origin(equation: Any) -> Origin:
    """Where `equation` was written. Inside the wrappers of `jax.numpy` that is not known."""
    found = list(_without_jax(frames(equation)))
    if not found:
        return Origin(NOWHERE, "", False)
    inside = [module_of(file) for file, _ in itertools.takewhile(lambda f: module_of(f[0]), found)]
    # Every room uses the arithmetic of trees, so its own frame says little: the rule that called it is named.
    ours = next((name for name in inside if name != tree.__name__), "")
    users = [(file, line) for file, line in found if not is_installed(file)]
    return Origin(SourceLine(*(users or found)[0]), ours, bool(users) or not ours)


def lines(equation: Any) -> tuple[SourceLine, SourceLine]:
    """The innermost line of an equation outside installed packages, and the innermost inside them."""
    return lines_of(frames(equation))


def lines_of(calls: Iterable[tuple[str, int]]) -> tuple[SourceLine, SourceLine]:
    """As `lines`, of calls as `toolkit.jaxprs.recorded_lines` reads them."""
    found = [SourceLine(*frame) for frame in _without_jax(calls)]
    users = [place for place in found if not is_installed(place.file)]
    installed = found[:1] if found and found[0] not in users else []
    return (*users[:1], NOWHERE)[0], (*installed, NOWHERE)[0]


def installed_name(place: SourceLine) -> str:
    """A line inside an installed package, the file as the package names it: `optax/tree.py:12`."""
    return f"{shown(place.file or '')}:{place.line}"


def _without_jax(calls: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """The calls of the traced program, innermost first, without those inside JAX."""
    for file, line in calls:
        if file.startswith(ASKED):
            return
        if not is_jax(file) and not file.startswith("<frozen"):
            yield file, line
