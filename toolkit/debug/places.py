"""The line of the user's code that an equation comes from."""

from __future__ import annotations

import itertools
import linecache
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

_NAME = __name__.partition(".")[0]
_OURS = f"{Path(__file__).parents[1]}/"
TRACING = f"{Path(__file__).parent}/"  # frames outside this are those of whoever asked
_JAX = f"{Path(jax.__file__).parent}/"
_PATHS = sysconfig.get_paths()
INSTALLED = (_OURS, *(f"{_PATHS[name]}/" for name in ("stdlib", "purelib", "platlib")), _JAX)


class Place(NamedTuple):
    """A line of source."""

    file: str | None
    line: int | None

    @property
    def source(self) -> str:
        if not self.file:
            return ""
        linecache.checkcache(self.file)  # a notebook's process outlives its files
        return linecache.getline(self.file, self.line or 0).strip()

    def __str__(self) -> str:
        if self.file is None:
            return "an unknown line"
        path = Path(self.file)
        inside = path.is_absolute() and path.is_relative_to(Path.cwd())
        return f"{path.relative_to(Path.cwd()) if inside else path}:{self.line}"


NOWHERE = Place(None, None)


class Origin(NamedTuple):
    """Where an equation comes from."""

    place: Place  # the innermost line outside installed packages, else inside them
    ours: str  # the module of this package that the equation stands in, or ""
    known: bool  # whether it has a line of its own


def origin(equation: Any) -> Origin:
    """Where `equation` was written. Inside the wrappers of `jax.numpy` that is not known."""
    frames = list(_frames(equation.source_info.traceback))
    if not frames:
        return Origin(NOWHERE, "", False)
    inside = [module(file) for file, _ in itertools.takewhile(lambda f: module(f[0]), frames)]
    ours = next((name for name in inside if name != f"{_NAME}.tree"), "")
    users = [(file, line) for file, line in frames if not file.startswith(INSTALLED)]
    return Origin(Place(*(users or frames)[0]), ours, bool(users) or not ours)


def module(file: str) -> str:
    """The module of this package that a file is, or ""."""
    if not file.startswith(_OURS):
        return ""
    inside = Path(file).relative_to(_OURS).with_suffix("")
    return ".".join((_NAME, *inside.parts))


def is_ours(place: Place) -> bool:
    """Whether a line is of this package."""
    return (place.file or "").startswith(_OURS)


def is_jax(file: str) -> bool:
    """Whether a file belongs to JAX."""
    return file.startswith(_JAX)


def is_installed(file: str) -> bool:
    """Whether a file belongs to Python, to an installed package or to this one."""
    return file.startswith((*INSTALLED, "<frozen"))


def _frames(traceback: Any) -> Iterator[tuple[str, int]]:
    """File and line of the recorded calls, innermost first, without those inside JAX."""
    for frame in traceback.frames if traceback is not None else ():
        if frame.file_name.startswith(TRACING):
            return
        if not is_jax(frame.file_name) and not frame.file_name.startswith("<frozen"):
            yield frame.file_name, frame.line_num


def lines(equation: Any) -> tuple[Place, Place]:
    """The innermost line of an equation outside installed packages, and the innermost inside them."""
    return lines_of(equation.source_info.traceback)


def lines_of(traceback: Any) -> tuple[Place, Place]:
    """As `lines`, of JAX's record of the calls."""
    frames = [Place(*frame) for frame in _frames(traceback)]
    users = [place for place in frames if not (place.file or "").startswith(INSTALLED)]
    installed = frames[:1] if frames and frames[0] not in users else []
    return (*users[:1], NOWHERE)[0], (*installed, NOWHERE)[0]


def installed_name(place: Place) -> str:
    """A line inside an installed package, the file as the package names it: `optax/tree.py:12`."""
    bases = sorted({str(Path(_OURS).parent) + "/", *INSTALLED}, key=len, reverse=True)
    file = place.file or ""
    base = next((base for base in bases if base != _OURS and file.startswith(base)), "")
    return f"{file.removeprefix(base)}:{place.line}"
